"""What a calibration is given, refused where it can't be used."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from torch import Tensor

from .. import _doors
from ..flow import Flow
from .equation import PDE
from .plan import Plan


def planned(plan: Plan | None, settings: dict[str, Any], readout: Callable[..., Tensor] | None) -> Plan:
    """Return what is to be done, or say what does not go together."""
    if plan is not None and settings:
        named = ", ".join(settings)
        raise ValueError(f"a plan and {named} were given: put settings into the plan, or give them alone.")
    unknown = sorted(set(settings) - {field.name for field in fields(Plan)})
    if unknown:
        raise TypeError(f"{unknown[0]}={settings[unknown[0]]!r} was given: settings are those of Plan.")
    _doors.is_a("plan", plan, (Plan, type(None)), "a Plan")
    plan = Plan(**settings) if plan is None else plan
    if plan.supervision in ("labels", "attention+states+logits") and readout is None:
        raise ValueError(f"supervision {plan.supervision!r} was asked for without a readout: give the teacher's head.")
    return plan


def refuse_unusable(pde, flows, validation, readout, checkpoint, stop_after, until) -> None:
    """Refuse what is of no kind that a calibration can use."""
    _doors.is_a("pde", pde, PDE, "an equation")
    if not callable(flows) or isinstance(flows, type):
        _doors.is_a("flows", flows, Flow, "a Flow, or a function (generator, batch) -> Flow,")
    _doors.is_a("validation", validation, (Flow, type(None)), "a Flow")
    for flow in (flow for flow in (flows, validation) if isinstance(flow, Flow)):
        if not flow.states:
            raise ValueError("a Flow without states was given: an equation starts at the state at depth 0.")
        pde.checked(flow.states[0])
    if readout is not None and not callable(readout):
        raise TypeError(f"readout={readout!r} was given: a function of the last state (and mask) is wanted.")
    _doors.is_a("checkpoint", checkpoint, (str, Path, type(None)), "a path")
    if stop_after is not None:
        _doors.whole("stop_after", stop_after)
    if until is not None:
        _doors.real("until", until)
