"""One file a paper: how the quantizers of a network are chosen."""

from __future__ import annotations

from pocketvit.core.names import unknown_name
from pocketvit.quantization.methods.easyquant import EASYQUANT
from pocketvit.quantization.methods.fqvit import FQVIT
from pocketvit.quantization.methods.hyq import HYQ
from pocketvit.quantization.methods.method import Method
from pocketvit.quantization.methods.observed import MINMAX, OMSE, PERCENTILE
from pocketvit.quantization.methods.pocket import POCKET
from pocketvit.quantization.methods.ptq4vit import PTQ4VIT
from pocketvit.quantization.methods.qhyvit import QHYVIT, QHYVIT_INTEGER
from pocketvit.quantization.methods.qhyvit_code import QHYVIT_CODE
from pocketvit.quantization.methods.repqvit import REPQVIT, REPQVIT_INTEGER

__all__ = ["METHODS", "Method", "get_method"]

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        POCKET,
        MINMAX,
        PERCENTILE,
        OMSE,
        EASYQUANT,
        PTQ4VIT,
        FQVIT,
        REPQVIT,
        REPQVIT_INTEGER,
        HYQ,
        QHYVIT,
        QHYVIT_INTEGER,
        QHYVIT_CODE,
    )
}
"""All methods by name."""


def get_method(name: str) -> Method:
    """A method by name.

    Raises:
        UnknownNameError: there is none.
    """
    if name not in METHODS:
        raise unknown_name("quantization method", name, METHODS)
    return METHODS[name]
