"""Named SQL: statements live in ``.sql`` files, each with a name and a sentence on what it does.

::

    -- touch_epochs --
    -- Make sure that a row exists for each epoch.
    INSERT INTO …
"""

from __future__ import annotations

import re
from importlib.resources import files

from psycopg.sql import SQL

from cloud_ingest.errors import StoreError

_NAME = re.compile(r"^-- ([a-z][a-z0-9_]*) --$", re.MULTILINE)


def load(package: str, file: str) -> dict[str, SQL]:
    """Read the statements of a file that ships with a package.

    Parameters
    ----------
    package
        Dotted name of the package, such as ``cloud_ingest.store``.
    file
        Name of the file in it.

    Raises
    ------
    StoreError
        If two statements have one name.
    """
    parts = _NAME.split(files(package).joinpath(file).read_text(encoding="utf-8"))
    statements: dict[str, SQL] = {}
    for name, text in zip(parts[1::2], parts[2::2], strict=True):
        if name in statements:
            raise StoreError(f"{package}/{file}: statement {name!r} stands there twice")
        statements[name] = SQL(text.strip())
    return statements
