"""What every kernel brings along."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import accounting.kernels

KERNELS = sorted(
    path.stem for path in Path(accounting.kernels.__file__).parent.glob("*.py") if not path.stem.startswith("_")
)


@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_has_tests_and_states_its_formula_and_laws(name: str) -> None:
    assert (Path(__file__).parent / f"test_{name}.py").exists()
    text = importlib.import_module(f"accounting.kernels.{name}").__doc__ or ""
    assert "Formula\n-------" in text
    assert "Laws\n----" in text
