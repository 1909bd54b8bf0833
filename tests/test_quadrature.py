"""Gauss-Legendre rules of many nodes, by Newton's steps."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

import limelight as ll

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("n", [255, 256, 257, 258, 1000])
def test_polynomials_up_to_degree_2n_minus_1_are_exact(n: int) -> None:
    r"""$\int_0^1 P_k(2t - 1)\,dt = 0$ for $0 < k < 2n$, and $\int_0^1 P_n(2t - 1)^2\,dt = 1/(2n + 1)$ needs 2n."""
    nodes, weights = ll.GaussLegendre(n).rule()
    assert len(nodes) == n and np.all(np.diff(nodes) > 0) and np.allclose(nodes + nodes[::-1], 1, atol=1e-15)
    assert weights.sum() == pytest.approx(1, abs=1e-14)
    for degree in (1, 2, n - 1, n, 2 * n - 1):
        legendre = np.polynomial.legendre.Legendre.basis(degree)(2 * nodes - 1)
        assert weights @ legendre == pytest.approx(0, abs=1e-13)
    assert weights @ np.exp(nodes) == pytest.approx(math.e - 1, rel=1e-14)


def test_many_nodes_take_no_time() -> None:
    """numpy's eigenvalues took 12 seconds for these; other work on the machine makes the limit wide."""
    began = time.process_time()
    nodes, weights = ll.GaussLegendre(4500).rule()
    assert time.process_time() - began < 4
    assert weights @ nodes**8000 == pytest.approx(1 / 8001, rel=1e-10)
