"""Configuration of the database: the ``[store]`` part of ``ingest.toml``."""

from __future__ import annotations

from pathlib import Path

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import Field, field_validator

from protocols.config import ConfigError, Model


class StoreConfig(Model):
    """Which database, and how it is used.

    Attributes
    ----------
    dsn
        Connection string or URI, without the password if that is in a file.
    password_file
        File that holds the password.
    migrate
        Bring the tables up to date at the start of ``run``; otherwise only check them.
    chunk_days
        Span of time of a partition or chunk of readings [days].
    statement_timeout_s
        Longest time of one statement [s].
    """

    dsn: str
    password_file: Path | None = None
    migrate: bool = True
    chunk_days: int = Field(default=7, ge=1, le=366)
    statement_timeout_s: float = Field(default=120.0, gt=0)

    @field_validator("dsn")
    @classmethod
    def _dsn(cls, value: str) -> str:
        try:
            conninfo_to_dict(value)
        except ProgrammingError as error:
            raise ValueError(f"not a PostgreSQL connection string: {str(error).strip()}") from error
        return value

    def connection_string(self) -> str:
        """DSN with the password from its file.

        Raises
        ------
        ConfigError
            If the file can't be read.
        """
        if self.password_file is None:
            return self.dsn
        return make_conninfo(self.dsn, password=read_secret(self.password_file))


def read_secret(file: Path) -> str:
    """Content of a secret's file, without the line's end.

    Raises
    ------
    ConfigError
        If it can't be read; the message names the file, never the content.
    """
    try:
        return file.read_text(encoding="utf-8").rstrip("\r\n")
    except OSError as error:
        raise ConfigError(f"{file}: can't be read: {error.strerror}") from error
