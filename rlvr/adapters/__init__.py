"""Adapters through PEFT that start at the base policy and never write to its weights.

Read ``attach.py`` first: it says how a policy is W0 + s (B A - B0 A0); ``methods.py`` has the
builders of a recipe, ``factors.py`` where each one starts, ``weights.py`` what samplers and exports
get, ``export.py`` the files.
"""

from rlvr.adapters.attach import Adapter, attach_adapter, set_rates
from rlvr.adapters.export import load_adapter, save_adapter
from rlvr.adapters.methods import Method
from rlvr.adapters.report import describe
from rlvr.adapters.spec import check_adapter, check_section, parse_adapter, refuse_head
from rlvr.adapters.weights import adapters_off, base_weights, policy_weights

__all__ = [
    "Adapter",
    "Method",
    "adapters_off",
    "attach_adapter",
    "base_weights",
    "check_adapter",
    "check_section",
    "describe",
    "load_adapter",
    "parse_adapter",
    "policy_weights",
    "refuse_head",
    "save_adapter",
    "set_rates",
]
