import numpy as np
import pytest

from models.errors import ComparisonError
from pipeline import paths
from pipeline.metrics import sample_crps


@pytest.fixture
def rng():
    """Give every test the same numbers, alone or among others."""
    return np.random.default_rng(20260105)


def walks(rng, *shape, correlation=0.0):
    """Draw paths [..., S] of a sum of normal moves, each correlated with the one before."""
    moves = rng.normal(size=shape)
    for s in range(1, shape[-1]):
        moves[..., s] = correlation * moves[..., s - 1] + np.sqrt(1 - correlation**2) * moves[..., s]
    return moves.cumsum(axis=-1)


def test_the_energy_score_equals_plain_loops(rng):
    """It is the mean distance to the outcome less half that of all pairs of different paths."""
    actual, sample = walks(rng, 3, 4), walks(rng, 3, 6, 4)
    for n in range(3):
        x = sample[n]
        near = np.mean([np.sqrt(np.sum((a - actual[n]) ** 2)) for a in x])
        pairs = [np.sqrt(np.sum((x[i] - x[j]) ** 2)) for i in range(6) for j in range(6) if i != j]
        assert paths.energy_score(actual, sample)[n] == pytest.approx(near - np.mean(pairs) / 2, rel=1e-12)


def test_the_variogram_score_equals_plain_loops(rng):
    """It is the sum over all ordered pairs of steps of squared differences of the variogram."""
    actual, sample = walks(rng, 3, 4), walks(rng, 3, 6, 4)
    for n in range(3):
        total = 0.0
        for s in range(4):
            for r in range(4):
                said = np.mean(np.abs(sample[n, :, s] - sample[n, :, r]) ** 0.5)
                total += (np.abs(actual[n, s] - actual[n, r]) ** 0.5 - said) ** 2
        assert paths.variogram_score(actual, sample)[n] == pytest.approx(total, rel=1e-12)


def test_the_energy_score_of_one_step_is_the_crps_of_the_sample(rng):
    """At a horizon of one both are the same number."""
    actual, sample = rng.normal(size=(20, 1)), rng.normal(size=(20, 9, 1))
    crps = sample_crps(actual[:, 0], sample[:, :, 0])
    np.testing.assert_allclose(paths.energy_score(actual, sample), crps, rtol=1e-10)


def test_few_paths_are_scored_as_many_would_be(rng):
    """The expected energy score does not depend on the number of paths: two are as fair as forty."""
    actual = walks(rng, 4000, 3)
    few = paths.energy_score(actual, walks(rng, 4000, 2, 3))
    many = paths.energy_score(actual, walks(rng, 4000, 40, 3))
    error = np.std(few - many) / np.sqrt(len(actual))
    assert np.mean(few) == pytest.approx(np.mean(many), abs=4 * error)


@pytest.mark.parametrize("score", [paths.energy_score, paths.variogram_score])
def test_the_true_paths_score_best(score, rng):
    """Paths of another spread lose by both scores."""
    actual = walks(rng, 3000, 5)
    best = score(actual, walks(rng, 3000, 60, 5))
    for factor in (0.6, 1.6):
        extra = score(actual, factor * walks(rng, 3000, 60, 5)) - best
        assert extra.mean() > 3 * extra.std() / np.sqrt(len(extra))


def test_each_score_sees_what_the_other_does_not(rng):
    """A common shift leaves the variogram score as it was and raises the energy score; dependence raises both."""
    actual = walks(rng, 3000, 6)
    sample = walks(rng, 3000, 60, 6)
    shifted = sample + 2.0
    np.testing.assert_allclose(paths.variogram_score(actual, shifted), paths.variogram_score(actual, sample))
    assert paths.energy_score(actual, shifted).mean() > 1.1 * paths.energy_score(actual, sample).mean()

    shuffled = np.stack([rng.permuted(sample[..., s], axis=1) for s in range(6)], axis=-1)
    variogram = [paths.variogram_score(actual, x).mean() for x in (shuffled, sample)]
    energy = [paths.energy_score(actual, x).mean() for x in (shuffled, sample)]
    assert variogram[0] / variogram[1] > energy[0] / energy[1] > 1


def test_an_unknown_path_or_outcome_leaves_its_origin_unscored(rng):
    """NaN stays in its row."""
    actual, sample = walks(rng, 3, 4), walks(rng, 3, 6, 4)
    actual[0, 2] = sample[1, 5, 0] = np.nan
    for score in (paths.energy_score, paths.variogram_score):
        np.testing.assert_array_equal(np.isnan(score(actual, sample)), [True, True, False])


@pytest.mark.parametrize("shape", [(3, 6, 5), (2, 6, 4), (3, 1, 4), (3, 4)])
@pytest.mark.parametrize("score", [paths.energy_score, paths.variogram_score])
def test_paths_of_another_shape_are_refused(score, shape, rng):
    """Another horizon, other origins, a single path or a missing axis is an error that names both shapes."""
    with pytest.raises(ComparisonError, match=r"came \[3, 4\] and"):
        score(walks(rng, 3, 4), walks(rng, *shape))
