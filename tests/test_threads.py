"""Small products get one thread, and the user's numbers come back."""

import threading

import numpy as np
import pytest
import scipy.linalg  # noqa: F401 - its threads are counted, too
from threadpoolctl import threadpool_info, threadpool_limits

from mop.threads import one_thread

torch = pytest.importorskip("torch")


def blas():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture(autouse=True)
def _two_threads():
    np.ones((2, 2)) @ np.ones((2, 2))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with threadpool_limits(limits=2, user_api="blas"):
        yield
    torch.set_num_threads(before)


def test_inside_there_is_one_and_afterwards_as_many_as_before():
    before = blas()
    with one_thread():
        assert set(blas()) == {1}
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert set(blas()) == {1}
    assert blas() == before
    assert torch.get_num_threads() == 2


def test_an_error_inside_puts_them_back():
    before = blas()
    with pytest.raises(ZeroDivisionError), one_thread():
        1 / 0  # noqa: B018
    assert (blas(), torch.get_num_threads()) == (before, 2)


def test_two_fits_at_a_time_put_them_back():
    before, entered, leave = blas(), threading.Event(), threading.Event()

    def other():
        with one_thread():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with one_thread():
        thread.start()
        assert entered.wait(10)
        assert set(blas()) == {1}
    leave.set()
    thread.join()
    assert (blas(), torch.get_num_threads()) == (before, 2)


@pytest.mark.parametrize("method", ["rounds", "paper"])
def test_a_fit_leaves_the_users_numbers(method):
    from mop import MixtureOfPersonas

    before = blas()
    rows = [{"context": "a", "response": f"{['good', 'dull'][i % 2]} {i}"} for i in range(24)]
    settings = {"method": method, "n_rounds": 1, "components_per_record": 4, "valid_components": 6}
    MixtureOfPersonas(2, lm="fake", encoder="fake", settings=settings).fit(rows)
    assert (blas(), torch.get_num_threads()) == (before, 2)
