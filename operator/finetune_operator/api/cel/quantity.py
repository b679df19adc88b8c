"""Amounts of CPU and memory: the checks of `finetune_trainer.spec.quantity`, in CEL.

A whole number and a text are both fine, so the type is asked for before anything else. The rules stand at the amounts
themselves, since the API server takes the length of such a value for unlimited up to Kubernetes 1.32 and bounds what a
rule may cost; so it is the API server that shows the value.
"""

from __future__ import annotations

from finetune_operator.api.cel.rule import Rule, rule, text
from finetune_trainer.spec.quantity import CPU_PATTERN, MEMORY_MIN, MEMORY_PATTERN

_NUMBER = "[0-9]+(\\\\.[0-9]+)?"
_SLIP = f"(?i)^ *{_NUMBER} *[kmgtp]i?b? *$"
IS_TEXT = "type(self) == string"


def cpu_rules(at: str) -> tuple[Rule, ...]:
    """The value at `at` is an amount of CPU."""
    number_of = "self.find('[0-9]+')"
    cores = f"'write \"' + {number_of} + '\" for ' + {number_of} + ' cores'"
    advice = f"self.matches('^ *[0-9]') ? {cores} : 'write for instance \"8\"'"
    message = f'is no amount of CPU: {{{advice}}}, or "500m" for half a core'
    nothing = f"{IS_TEXT} ? self.matches('^0+(\\\\.0+)?m?$') : self <= 0"
    zero = 'is no amount of CPU: write more than 0, for instance "8"'
    return _rule(at, _is_no(CPU_PATTERN), message), _rule(at, nothing, zero)


def memory_rules(at: str) -> tuple[Rule, ...]:
    """The value at `at` is an amount of memory."""
    corrected = f"self.find('{_NUMBER}') + self.find('[kmgtpKMGTP]').upperAscii() + 'i\"'"
    advice = f"self.matches('{_SLIP}') ? 'write \"' + {corrected} : 'write for instance \"64Gi\"'"
    message = f"is no amount of memory: {{{advice}}} (units are Ki, Mi, Gi, Ti)"
    amount = f"({IS_TEXT} ? quantity(self).asApproximateFloat() : double(self))"
    small = 'is less than 64Mi: write an amount with its unit, for instance "64Gi"'
    well_formed = f"!({_is_no(MEMORY_PATTERN)})"
    return (
        _rule(at, _is_no(MEMORY_PATTERN), message),
        _rule(at, f"{well_formed} && {amount} < {float(MEMORY_MIN)}", small),
    )


def _is_no(pattern: str) -> str:
    return f"{IS_TEXT} && !self.matches({text(pattern)})"


def _rule(at: str, wrong: str, message: str) -> Rule:
    return rule(at, "", wrong, message, mirrors="quantity")
