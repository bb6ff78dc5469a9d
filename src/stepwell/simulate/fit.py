"""Least squares with coefficients that are costs: none may be negative."""

from __future__ import annotations

from collections.abc import Sequence

_TINY = 1e-12


def fit(rows: Sequence[Sequence[float]], targets: Sequence[float]) -> list[float]:
    """Coefficients ``x >= 0`` with ``rows @ x`` near ``targets``, one per column.

    Solves the normal equations; the most negative coefficient is fixed at zero and the rest solved again,
    until none is negative. A column that does not vary with the others gets zero.
    """
    columns = len(rows[0])
    used = list(range(columns))
    while used:
        found = _solve(rows, targets, used)
        lowest = min(range(len(used)), key=found.__getitem__)
        if found[lowest] >= 0:
            result = [0.0] * columns
            for column, value in zip(used, found, strict=True):
                result[column] = value
            return result
        used.pop(lowest)
    return [0.0] * columns


def _solve(rows: Sequence[Sequence[float]], targets: Sequence[float], used: Sequence[int]) -> list[float]:
    """Gaussian elimination with pivots over the normal equations, columns scaled to one."""
    scale = [max((abs(row[c]) for row in rows), default=0.0) or 1.0 for c in used]
    scaled = [[row[c] / s for c, s in zip(used, scale, strict=True)] for row in rows]
    size = len(used)
    matrix = [[sum(row[i] * row[j] for row in scaled) for j in range(size)] for i in range(size)]
    right = [sum(row[i] * target for row, target in zip(scaled, targets, strict=True)) for i in range(size)]
    solution = _eliminate(matrix, right)
    return [value / s for value, s in zip(solution, scale, strict=True)]


def _eliminate(matrix: list[list[float]], right: list[float]) -> list[float]:
    size = len(right)
    smallest = _TINY * max((matrix[i][i] for i in range(size)), default=1.0)
    free = [False] * size
    for i in range(size):
        # The matrix is symmetric and not negative, so its diagonal holds the pivots.
        if matrix[i][i] <= smallest:
            free[i] = True
            continue
        for j in range(size):
            if j != i:
                factor = matrix[j][i] / matrix[i][i]
                matrix[j] = [a - factor * b for a, b in zip(matrix[j], matrix[i], strict=True)]
                right[j] -= factor * right[i]
    return [0.0 if free[i] else right[i] / matrix[i][i] for i in range(size)]
