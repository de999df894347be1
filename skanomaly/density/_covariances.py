"""Covariances of all positions in two forms, learned in a stream, and squared distances from them.

n, d        number of vectors per position and of numbers per vector
cells       number of positions; p of them are processed at a time
x, m        a vector and the mean at its position; u = x - m; y = x - origin
R, S        the n centered vectors at one position, (n, d); their scatter R'R, (d, d)
Sigma       covariance c S + e I; without shrinkage c = 1 / (n - 1) and e = epsilon
F           whitening factor, lower triangular: F Sigma F' = I, so u' Sigma^-1 u = |F u|^2

A form takes in vectors by ``add``, and ``finish`` computes the mean and the factors that
``squared_distances`` needs. Vectors may be added after that, unless the form has been closed.
"""

from itertools import count, pairwise, takewhile

import numpy as np

from skanomaly.utils.threads import count_processors, single_threaded_pool

BLOCK = 2**18  # numbers of d x d matrices processed at a time: they stay in the cache
STRIPE = 32  # approximate number of rows of a stripe of a lower triangle
SINGULAR = 1e-12  # a pivot below this fraction of its variance is rounding noise


class _Covariances:
    """Base class of the two forms: what both have, and their state as arrays.

    Parameters
    ----------
    origin : ndarray of shape (cells, d), float64
        A point near the mean: sums relative to it do not lose digits.
    """

    # The attributes that make up the state; those that are None or empty lists are left out of it.
    _ARRAYS: tuple[str, ...] = ("origin",)
    _LISTS: tuple[str, ...] = ()

    def __init__(self, origin):
        self.n = 0
        self.is_finished = False  # whether mean and factors are those of all vectors added
        self.is_closed = False
        self.origin = origin

    def get_state(self):
        """Arrays, not copied, and numbers by name."""
        names = ("n", "is_finished", "is_closed", *self._ARRAYS)
        state = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        for name in self._LISTS:
            state |= {f"{name}_{i}": array for i, array in enumerate(getattr(self, name))}
        return state

    @classmethod
    def from_state(cls, state):
        """The form with this state; its arrays are copied only if they are read-only."""
        covariances = cls(state["origin"])
        covariances.n = int(state["n"])
        covariances.is_finished = bool(state["is_finished"])
        covariances.is_closed = bool(state["is_closed"])
        for name in cls._ARRAYS:
            setattr(covariances, name, _writeable(state[name]) if name in state else None)
        for name in cls._LISTS:
            keys = takewhile(state.__contains__, (f"{name}_{i}" for i in count()))
            setattr(covariances, name, [_writeable(state[key]) for key in keys])
        return covariances


class DenseCovariances(_Covariances):
    """Sums of products, then factors: about d^2 / 2 numbers per position, independent of n."""

    _ARRAYS = ("origin", "sums", "cubes", "fourths", "mean")
    _LISTS = ("products", "factors")

    def __init__(self, origin):
        super().__init__(origin)
        cells, d = origin.shape
        self.sums = np.zeros((cells, d))
        # The lower triangle of the sum of y y', in stripes: (cells, rows of the stripe, end) each.
        self.products = [np.zeros((cells, end - start, end)) for start, end in stripes(d)]
        self.cubes = np.zeros((cells, d))  # sum of |y|^2 y, for the fourth moments
        self.fourths = np.zeros(cells)  # sum of |y|^4
        self.mean = None  # (cells, d) float64
        self.factors = []  # F in the stripes of the products, float32

    def close(self):
        """Drop what only ``add`` needs."""
        self.is_closed = True
        self.sums = self.cubes = self.fourths = None
        self.products = []

    def add(self, vectors):
        """Add vectors (b, cells, d)."""
        self.is_finished = False
        for part in parts(*self.origin.shape):
            self.add_rows((vectors[:, part] - self.origin[part]).swapaxes(0, 1), part)
        self.n += len(vectors)

    def add_rows(self, rows, part):
        """Add y (p, b, d) float64 at some positions to the sums, without counting them."""
        squares = np.einsum("pbd,pbd->pb", rows, rows)
        self.sums[part] += rows.sum(axis=1)
        self.cubes[part] += (squares[:, None] @ rows)[:, 0]
        self.fourths[part] += np.einsum("pb,pb->p", squares, squares)
        for products, (start, end) in zip(self.products, stripes(rows.shape[2]), strict=True):
            products[part] += rows[:, :, start:end].swapaxes(1, 2) @ rows[:, :, :end]

    def merge(self, other):
        """Add what another form has learned, about this origin; the other one stays as it is."""
        self.is_finished = False
        shift = other.origin - self.origin  # x - origin of here is y of there plus this, (cells, d)
        for part in parts(*shift.shape):
            if isinstance(other, DenseCovariances):
                self._add_sums(other, shift[part], part)
            else:
                for rows in other.vectors():
                    self.add_rows(rows[part] + shift[part, None], part)
        self.n += other.n

    def _add_sums(self, other, shift, part):
        """Add another's sums of y at some positions, as sums of y + shift."""
        n, sums = other.n, other.sums[part]
        moved = sums + n * shift
        trace, turned = np.zeros(len(shift)), np.zeros_like(shift)  # of P = sum of y y'; P shift
        for mine, theirs, (start, end) in zip(
            self.products, other.products, stripes(shift.shape[1]), strict=True
        ):
            band = theirs[part]
            turned[:, start:end] += (band @ shift[:, :end, None])[..., 0]
            turned[:, :start] += (shift[:, None, start:end] @ band[:, :, :start])[:, 0]
            trace += np.einsum("pii->p", band[:, :, start:])
            mine[part] += band
            mine[part] += moved[:, start:end, None] * shift[:, None, :end]
            mine[part] += shift[:, start:end, None] * sums[:, None, :end]
        # |y + shift|^2 = |y|^2 + 2 y'shift + |shift|^2, times y + shift or squared, and summed
        square, along, cube, twist = (
            np.einsum("pd,pd->p", shift, vectors)
            for vectors in (shift, sums, other.cubes[part], turned)
        )
        factor = trace + 2 * along + n * square
        self.cubes[part] += other.cubes[part] + 2 * turned
        self.cubes[part] += factor[:, None] * shift + square[:, None] * sums
        fourth = other.fourths[part] + 4 * (cube + twist) + 2 * square * trace
        self.fourths[part] += fourth + 4 * square * along + n * square**2
        self.sums[part] += moved

    def finish(self, epsilon, shrinkage):
        """Compute mean and factors."""
        d = self.origin.shape[1]
        self.mean = self.origin + self.sums / self.n
        self.factors = [np.empty(products.shape, np.float32) for products in self.products]

        def finish(part):
            scatter, fourth = self._central_moments(part)
            c, e = scale_and_ridge(scatter, fourth, self.n, d, epsilon, shrinkage)
            scatter *= c[:, None]
            np.einsum("pii->pi", scatter)[:] += e  # a view of the diagonals: scatter is Sigma now
            factor = whitening(scatter, self.n)
            for kept, (start, end) in zip(self.factors, stripes(d), strict=True):
                kept[part] = factor[:, start:end, :end]

        in_threads(finish, parts(*self.origin.shape))
        self.is_finished = True

    def left_out_factors(self, epsilon):
        """F of M = S + (n - 2) epsilon I at each position, (cells, d, d) float64; shared."""
        cells, d = self.origin.shape
        factors = np.empty((cells, d, d))

        def factor(part):
            scatter = self._central_moments(part)[0]
            np.einsum("pii->pi", scatter)[:] += (self.n - 2) * epsilon
            factors[part] = whitening(scatter, self.n)

        in_threads(factor, parts(cells, d))
        return factors

    def leverages(self, vectors, factors):
        """u' M^-1 u of vectors (b, cells, d), and 1 - n / (n - 1) of it; (b, cells) each."""
        b, cells, d = vectors.shape
        leverage = np.empty((cells, b))

        def measure(part):
            u = (vectors[:, part] - self.mean[part]).transpose(1, 2, 0)  # (p, d, b)
            white = factors[part] @ u
            leverage[part] = np.einsum("pdb,pdb->pb", white, white)

        in_threads(measure, parts(cells, d))
        return leverage.T, 1 - self.n / (self.n - 1) * leverage.T

    def _central_moments(self, part):
        """S (p, d, d) and the sum of |u|^4, (p,), from the sums relative to the origin."""
        shift = self.sums[part] / self.n  # m - origin, (p, d)
        d = shift.shape[1]
        scatter = np.empty((len(shift), d, d))
        for products, (start, end) in zip(self.products, stripes(d), strict=True):
            band = products[part] - self.n * shift[:, start:end, None] * shift[:, None, :end]
            scatter[:, start:end, :end] = band
            scatter[:, :end, start:end] = band.swapaxes(1, 2)
        # |u|^2 = |y|^2 - 2 y'shift + |shift|^2, squared and summed over the vectors
        square = np.einsum("pd,pd->p", shift, shift)
        along = (shift[:, None] @ scatter @ shift[:, :, None])[:, 0, 0]
        trace = np.einsum("pdd->p", scatter)
        fourth = self.fourths[part] - 4 * np.einsum("pd,pd->p", shift, self.cubes[part])
        fourth += 4 * along + 2 * square * trace + 3 * self.n * square**2
        return scatter, fourth

    def squared_distances(self, u, part):
        """|F u|^2 for u (b, p, d)."""
        squared = np.zeros(u.shape[:2], dtype=np.float32)
        for factors in self.factors:
            end = factors.shape[2]
            white = (factors[part] @ u[:, :, :end, None])[..., 0]  # (b, p, rows of the stripe)
            squared += np.einsum("bps,bps->bp", white, white)
        return squared

    def covariance(self, cell):
        """Sigma at one position, (d, d)."""
        d = self.origin.shape[1]
        factor = np.zeros((d, d))
        for factors, (start, end) in zip(self.factors, stripes(d), strict=True):
            factor[start:end, :end] = factors[cell]
        root = inverse_of_lower(factor)
        return root @ root.T


class LowRankCovariances(_Covariances):
    """The vectors themselves, then a basis of their span: n (d + n) numbers per position.

    Let V be the right singular vectors of R and s its singular values. A vector is split into its
    part in the span of V and the rest:
    u' Sigma^-1 u = sum of (V u)_i^2 / (c s_i^2 + e) + |u - V'V u|^2 / e.
    Woodbury's identity gives the same number as a difference of large ones, for which the
    precision of float32 does not suffice.
    """

    _ARRAYS = ("origin", "basis", "mixing", "variances", "ridge")
    _LISTS = ("blocks",)

    def __init__(self, origin):
        super().__init__(origin)
        # y of one batch each, (cells, b, d) float32, or float64 where they were moved; empty when
        # finished
        self.blocks = []
        self.basis = self.mixing = None  # V (cells, n, d), and R = mixing V; when finished
        self.variances = self.ridge = None  # c s^2 + e (cells, n), and e (cells,); when finished

    @property
    def mean(self):
        """Mean at every position, (cells, d): ``finish`` moves the origin there."""
        return self.origin

    def close(self):
        """Drop what only ``add`` needs."""
        self.is_closed = True
        self.mixing = None

    def add(self, vectors):
        """Add vectors (b, cells, d)."""
        self._restore_rows()
        b, cells, d = vectors.shape
        rows = np.empty((cells, b, d), dtype=np.float32)
        for part in parts(cells, d):
            rows[part] = (vectors[:, part] - self.origin[part]).swapaxes(0, 1)
        self.blocks.append(rows)
        self.n += b

    def merge(self, other):
        """Add the vectors of another low-rank form; it stays as it is."""
        self._restore_rows()
        shift = (other.origin - self.origin)[:, None]
        # Rounded once more, the result would depend on the order of merging.
        self.blocks += [rows + shift if shift.any() else rows.copy() for rows in other.vectors()]
        self.n += other.n

    def vectors(self):
        """y of each batch, (cells, b, d) each, not to be changed."""
        return self.blocks if self.basis is None else [self.mixing @ self.basis]

    def as_dense(self):
        """The same vectors in the dense form; this one is empty afterwards."""
        self._restore_rows()
        dense = DenseCovariances(self.origin)
        while self.blocks:
            rows = self.blocks.pop()  # so that its memory is freed when it has been added
            for part in parts(*self.origin.shape):
                dense.add_rows(rows[part].astype(np.float64), part)
        dense.n = self.n
        return dense

    def _restore_rows(self):
        """Replace the basis by the vectors again, if ``finish`` had replaced the vectors by it."""
        self.is_finished = False
        if self.basis is not None:
            for part in parts(*self.origin.shape):
                self.basis[part] = self.mixing[part] @ self.basis[part]
            self.blocks = [self.basis]
            self.basis = self.mixing = None

    def finish(self, epsilon, shrinkage):
        """Compute the mean, and the basis in the memory of the vectors."""
        self._restore_rows()
        cells, d = self.origin.shape
        rows = np.concatenate(self.blocks, axis=1) if len(self.blocks) > 1 else self.blocks[0]
        mixing = np.empty((cells, self.n, self.n), dtype=np.float32)
        self.variances = np.empty((cells, self.n), dtype=np.float32)
        self.ridge = np.empty(cells, dtype=np.float32)

        def finish(part):
            y = rows[part].astype(np.float64)
            shift = y.mean(axis=1)
            y -= shift[:, None]
            gram = y @ y.swapaxes(1, 2)  # (p, n, n)
            fourth = np.einsum("pnn,pnn->p", gram, gram)
            c, e = scale_and_ridge(gram, fourth, self.n, d, epsilon, shrinkage)
            self.origin[part] += shift  # now the mean
            mixing[part], rows[part], squares = right_singular_vectors(y, gram)
            self.variances[part], self.ridge[part] = c * squares + e, e[:, 0]

        in_threads(finish, parts(cells, d))
        self.basis, self.mixing, self.blocks = rows.astype(np.float32, copy=False), mixing, []
        if not self.ridge.all():
            raise ValueError(_singular(self.n))
        self.is_finished = True

    def leverages(self, first, end, epsilon):
        """u' M^-1 u of the vectors that were added as first to end, with M = S + (n - 2) epsilon I.

        And 1 - n / (n - 1) of it, which would lose all digits as a difference; (b, cells) each.
        """
        ridge = (self.n - 2) * epsilon
        scaled = self.mixing[:, first:end].astype(np.float64)  # U s, (cells, b, n)
        # variances are s^2 / (n - 1) + epsilon
        squares = np.maximum((self.variances - self.ridge[:, None]) * (self.n - 1.0), 0)[:, None]
        inside = np.divide(scaled**2, squares, out=np.zeros_like(scaled), where=squares > 0)
        leverage = (inside * squares / (squares + ridge)).sum(axis=2)
        # The rows of U with the mean's direction, 1 / n, have length 1 where none is missing.
        missing = np.maximum(1 - self.n / (self.n - 1) * inside.sum(axis=2), 0)
        rest = self.n / (self.n - 1) * (inside * ridge / (squares + ridge)).sum(axis=2) + missing
        return leverage.T, rest.T

    def squared_distances(self, u, part):
        """u' Sigma^-1 u for u (b, p, d), by the formula of the class."""
        basis = self.basis[part]
        inside = (basis @ u[..., None])[..., 0]  # (b, p, n)
        rest = u - (inside[:, :, None] @ basis)[:, :, 0]  # (b, p, d)
        squared = np.einsum("bpd,bpd->bp", rest, rest) / self.ridge[part]
        return squared + np.einsum("bpn,bpn->bp", inside, inside / self.variances[part])

    def covariance(self, cell):
        """Sigma at one position, (d, d)."""
        basis = self.basis[cell].astype(np.float64)
        ridge = self.ridge[cell]
        return (basis.T * (self.variances[cell] - ridge)) @ basis + ridge * np.eye(basis.shape[1])


def parts(cells, d, block=BLOCK):
    """Slices of positions whose d x d matrices together fit a block."""
    step = max(8, block // d**2)
    return [slice(first, min(first + step, cells)) for first in range(0, cells, step)]


def in_threads(function, some_parts):
    """Call the function for each of the parts, in as many threads as there are processors."""
    with single_threaded_pool(count_processors()) as pool:
        list(pool.map(function, some_parts))  # list: raises what a thread has raised


def stripes(d):
    """(start, end) of stripes of rows; of a lower triangle each has the columns up to ``end``."""
    edges = np.linspace(0, d, -(-d // STRIPE) + 1).round().astype(int)
    return list(pairwise(edges.tolist()))


def scale_and_ridge(products, fourth, n, d, epsilon, shrinkage):
    """c and e of Sigma = c S + e I for each position, (p, 1) each.

    ``products`` is S or R R', which have the same trace and the same norm. ``fourth`` is the sum of
    |u|^4, (p,). With shrinkage, Sigma is Ledoit and Wolf's estimate plus epsilon I.
    """
    if shrinkage is None:
        ones = np.ones((len(products), 1))
        return ones / (n - 1), ones * epsilon
    variance = np.einsum("pii->p", products) / (n * d)  # mu of Ledoit and Wolf
    square = np.einsum("pij,pij->p", products, products) / n**2
    spread = square / d - variance**2  # delta^2: how far S / n is from a multiple of I
    noise = (fourth / n - square) / (n * d)  # beta^2: how uncertain it is
    share = np.divide(noise, spread, out=np.zeros_like(noise), where=spread > 0).clip(0, 1)
    return ((1 - share) / n)[:, None], (share * variance + epsilon)[:, None]


def whitening(sigma, n):
    """F of each covariance (p, d, d); ValueError if one of them is singular."""
    try:
        root = np.linalg.cholesky(sigma)
    except np.linalg.LinAlgError as error:
        raise ValueError(_singular(n)) from error
    pivots, variances = (np.einsum("pii->pi", matrix) for matrix in (root, sigma))
    if (pivots**2 <= SINGULAR * variances).any():
        raise ValueError(_singular(n))
    return inverse_of_lower(root)


def inverse_of_lower(root):
    """Inverses of lower triangular matrices (..., d, d), by recursive halving.

    [A 0; B C] has the inverse [A^-1 0; -C^-1 B A^-1 C^-1], which is fast matrix products.
    """
    d = root.shape[-1]
    if d <= STRIPE:
        return np.linalg.inv(root)
    half = d // 2
    inverse = np.zeros_like(root)
    top, bottom = inverse[..., :half, :half], inverse[..., half:, half:]
    top[:] = inverse_of_lower(root[..., :half, :half])
    bottom[:] = inverse_of_lower(root[..., half:, half:])
    inverse[..., half:, :half] = -bottom @ (root[..., half:, :half] @ top)
    return inverse


def right_singular_vectors(rows, gram):
    """U s, V and s^2 of rows (p, n, d) = U s V, given gram = rows rows'; V is 0 where s is 0."""
    squares, left = np.linalg.eigh(gram)  # (p, n), (p, n, n)
    positive = squares > SINGULAR * squares[:, -1:]
    values = np.sqrt(np.where(positive, squares, np.inf))
    basis = (left / values[:, None]).swapaxes(1, 2) @ rows  # (p, n, d)
    squares = np.where(positive, squares, 0)
    return left * np.sqrt(squares)[:, None], basis, squares


def _writeable(array):
    """The array itself, or a copy if it is read-only or not contiguous: it is changed in place."""
    return np.require(array, requirements=["C", "W"])


def _singular(n):
    return (
        f"expected invertible covariances, got a singular one from {n} vectors per position; "
        "pass epsilon > 0, or more images"
    )
