"""The exception tree, and what a missing extra says."""

import pytest

from mop import errors


def test_every_error_is_a_mop_error_and_a_fitting_built_in():
    pairs = {
        errors.ConfigError: ValueError, errors.DataError: ValueError, errors.NotFittedError: RuntimeError,
        errors.ArtifactError: RuntimeError, errors.PullError: RuntimeError,
        errors.MissingDependencyError: ImportError, errors.BackendError: RuntimeError,
        errors.PromptTooLongError: errors.BackendError, errors.ScoringUnsupportedError: errors.BackendError,
    }  # fmt: skip
    for error, built_in in pairs.items():
        assert issubclass(error, errors.MopError)
        assert issubclass(error, built_in)


def test_a_backend_error_says_whether_to_try_again():
    assert errors.BackendError("busy", retryable=True).retryable
    assert not errors.BackendError("broken").retryable


def test_a_missing_package_names_its_extra():
    sentence = r"'no_such_thing', which is not installed; install it with: pip install 'mixture-of-personas\[report\]'"
    with pytest.raises(errors.MissingDependencyError, match=sentence):
        errors.require("no_such_thing.sub", extra="report")


def test_a_package_that_is_there_is_returned():
    assert errors.require("json", extra="x").loads("1") == 1
