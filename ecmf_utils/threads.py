"""How many threads linear algebra uses: few small matrices are solved fastest, and to the same bit, on one."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager

from threadpoolctl import ThreadpoolController


def blas(threads: int = 1) -> AbstractContextManager:
    """Limit NumPy's and SciPy's threads for a while; more than there are cores wait for one another busily."""
    return _controller().limit(limits=threads, user_api="blas")


@functools.cache
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  its library has to be there when the controller looks

    return ThreadpoolController()
