"""Contexts and a fitted mixture to texts that say which agent wrote them."""

from mop.simulate.draw import draw_agents
from mop.simulate.refit import refit_black_box
from mop.simulate.write import simulate

__all__ = ["draw_agents", "refit_black_box", "simulate"]
