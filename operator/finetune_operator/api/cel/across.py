"""The rules of `finetune_trainer.spec.rules` that need more than one field, in CEL.

What the API server fills in is there (`spec.deepspeed.zeroStage`); what follows from other fields
(`finetune_trainer.spec.defaults.fill_spec`) is not, and means what the trainer will fill in.
"""

from __future__ import annotations

from collections.abc import Iterator

from finetune_operator.api.cel.method import method_rules
from finetune_operator.api.cel.metrics import metric_rules
from finetune_operator.api.cel.rule import Check, Rule, number, rule, text, texts
from finetune_trainer.spec.cluster import FailureReason
from finetune_trainer.spec.data import Format
from finetune_trainer.spec.deepspeed import MAX_ZERO_STAGE
from finetune_trainer.spec.fields import entries
from finetune_trainer.spec.notyet import VALUES, one_of
from finetune_trainer.spec.overrides import ALLOWED
from finetune_trainer.spec.rules import COLUMNS, FORMATS

MOST_ROWS = 2 * 1_048_576  # a multiple of microBatchSize may lie above the largest batch
MOST_REPLICAS = 4096
MOST_RANKS = MOST_REPLICAS * 64
MOST_SOURCES = 64
RANKS = "self.workers.replicas * (self.workers.gpusPerReplica > 0 ? self.workers.gpusPerReplica : 1)"
ABOVE = "(self.globalBatchSize + self.microBatchSize - 1) / self.microBatchSize * self.microBatchSize"
NO_EVAL = "(!has(self.data.eval) || self.data.eval.size() == 0)"
EVAL_STEPS = "has(self.evaluation.everySteps)"


def across_rules() -> tuple[Rule, ...]:
    """Every cross-field rule, in the order of the trainer's."""
    return (
        *_training(),
        *method_rules(),
        *_data(),
        *_evaluation(),
        *_sharding(),
        *_places(),
        *_failures(),
        *metric_rules(),
    )


def _training() -> Iterator[Rule]:
    name = "one_way_to_end"
    message = "is required unless maxSteps is given: write for instance epochs: 1 (got nothing)"
    neither = "!has(self.epochs) && !has(self.maxSteps)"
    yield rule("spec.training", "epochs", neither, message, mirrors=name, reason="FieldValueRequired")
    message = f"cannot stand beside epochs: keep one of the two (got {_value('training.maxSteps', 'self.maxSteps')})"
    yield rule("spec.training", "maxSteps", "has(self.epochs) && has(self.maxSteps)", message, mirrors=name)
    batch = _value("training.globalBatchSize", "self.training.globalBatchSize")
    ranks = f"{{{number(RANKS, MOST_RANKS)}}}"
    yield rule(
        "spec",
        "training.globalBatchSize",
        f"[self.workers].exists(workers, self.training.globalBatchSize < {RANKS.replace('self.', '')})",
        f"is smaller than the number of ranks, {ranks} (replicas x max(1, gpusPerReplica)): write {ranks} or more, or "
        f"fewer replicas or GPUs in spec.workers (got {batch})",
        mirrors="a_row_for_every_rank",
    )
    batch = _value("training.globalBatchSize", "self.globalBatchSize")
    micro_batch = _value("training.microBatchSize", "self.microBatchSize")
    below = f"{ABOVE} > self.microBatchSize ? {number(f'{ABOVE} - self.microBatchSize', MOST_ROWS)} + ' or ' : ''"
    yield rule(
        "spec.training",
        "globalBatchSize",
        "has(self.microBatchSize) && self.globalBatchSize % self.microBatchSize != 0",
        f"is no multiple of microBatchSize, {micro_batch}: write {{{below}}}{{{number(ABOVE, MOST_ROWS)}}}, or leave "
        f"microBatchSize out (got {batch})",
        mirrors="whole_micro_batches",
    )
    replicas = f"{{{number('self.replicas', MOST_REPLICAS)}}}"
    yield rule(
        "spec.workers",
        "minReplicas",
        "has(self.minReplicas) && self.minReplicas > self.replicas",
        f"is more than spec.workers.replicas, {replicas}: write {replicas} or less, or leave it out "
        f"(got {{{number('self.minReplicas', MOST_REPLICAS)}}})",
        mirrors="fewest_workers_are_no_more_than_all",
    )


def _data() -> Iterator[Rule]:
    for field in ("train", "eval"):
        yield _formats(field)
    for at in ("spec.data.train[]", "spec.data.eval[]"):
        yield Rule(at, "columns", tuple(_columns()), "columns_of_the_format", given="has(self.columns)")


def _formats(field: str) -> Rule:
    """One message for all objectives: one for each of them made the CRD 30 KB longer, and it has a limit."""
    sources = f"self.data.{field}"
    kinds = {
        formats: f"self.objective.type in {texts([one for one, its in FORMATS.items() if its == formats])}"
        for formats in FORMATS.values()
    }
    others = {formats: [one for one in Format if one not in formats and one not in VALUES] for formats in kinds}

    def wrong(form: str) -> str:
        # The source goes first: it is small, and of format Auto most often.
        return " || ".join(f"{form} in {texts(others[formats])} && {kind}" for formats, kind in kinds.items())

    # A rule's path has no index, and an element alone does not know the objective.
    places = f"{list(range(MOST_SOURCES))}.filter(i, i < {sources}.size() && ({wrong(f'{sources}[i].format')}))"
    known = texts([one for one in Format if one not in VALUES])
    found = f"{known}.filter(other, {sources}[{places}[0]].format == other)[0]"
    *first, (last, _) = kinds.items()
    remedy = "".join(f"{kind} ? {text(one_of(formats))} : " for formats, kind in first) + text(one_of(last))
    check = Check(
        f"{sources}.exists(source, {wrong('source.format')})",
        f"[{{{number(f'{places}[0]', MOST_SOURCES)}}}].format does not suit objective {{self.objective.type}}: "
        f"write {{{remedy}}} (got '{{{found}}}')",
    )
    given = "" if field == "train" else f"has({sources})"
    return Rule("spec", f"data.{field}", (check,), "format_of_the_objective", given=given)


def _columns() -> Iterator[Check]:
    every = tuple(dict.fromkeys(name for names in COLUMNS.values() for name in names))
    for form, names in {**COLUMNS, Format.AUTO: every}.items():
        here = f"self.format == {text(form)}"
        unknown = f"!(name in {texts(names)})"
        yield Check(
            f"{here} && self.columns.exists(name, {unknown})",
            f"{{self.columns.filter(name, {unknown})[0]}} is no column of format {{self.format}}: "
            f"write {one_of(names)} before the colon "
            f"(got '{{self.columns[self.columns.filter(name, {unknown})[0]]}}')",
        )


def _evaluation() -> Iterator[Rule]:
    steps, base, stopping, best = (
        ("evaluation.everySteps", EVAL_STEPS, _value("evaluation.everySteps", "self.evaluation.everySteps")),
        (
            "evaluation.compareBase",
            "has(self.evaluation.compareBase) && self.evaluation.compareBase",
            "True",
        ),
        ("evaluation.earlyStopping", "has(self.evaluation.earlyStopping)", "'a mapping'"),
        (
            "checkpoint.keepBest",
            "has(self.checkpoint.keepBest) && self.checkpoint.keepBest > 0",
            _value("checkpoint.keepBest", "self.checkpoint.keepBest"),
        ),
    )
    for field, given, got in (steps, base, stopping, best):
        message = f"needs held-out data: add spec.data.eval, or remove this (got {got})"
        yield rule("spec", field, f"{given} && {NO_EVAL}", message, mirrors="evaluation_has_data")
    for field, given, got in (stopping, best):
        message = f"needs evaluations during the run: add spec.evaluation.everySteps (got {got})"
        wrong = f"{given} && !({EVAL_STEPS}) && !{NO_EVAL}"
        yield rule("spec", field, wrong, message, mirrors="choosing_needs_evaluations")


def _value(path: str, expression: str) -> str:
    """The place in a message where the whole number `expression`, the field at `path` below spec, is shown."""
    most = next(bound.le for bound in entries()[f"spec.{path}"].bounds if getattr(bound, "le", None))
    return f"{{{number(expression, most)}}}"


def _sharding() -> Iterator[Rule]:
    neither = "!has(self.everySteps) && !has(self.everySeconds)"
    message = (
        "is required unless everySeconds is given: write for instance everySteps: 200 or everySeconds: 1800 "
        "(got nothing)"
    )
    name = "checkpoints_happen"
    yield rule("spec.checkpoint", "everySteps", neither, message, mirrors=name, reason="FieldValueRequired")
    for field, stage, advice, name in (
        ("offloadOptimizer", 1, "zeroStage 1, 2 or 3", "offloaded_optimizer_is_sharded"),
        ("offloadParameters", MAX_ZERO_STAGE, "zeroStage: 3", "offloaded_parameters_are_sharded"),
    ):
        wrong = f"self.{field} != 'None' && self.zeroStage < {stage}"
        message = f"needs {advice}: raise spec.deepspeed.zeroStage, or write None (got '{{self.{field}}}')"
        yield rule("spec.deepspeed", field, wrong, message, mirrors=name)
    given = "has(self.overrides)"
    yield Rule("spec.deepspeed", "overrides", tuple(_overrides()), "overrides_have_an_effect", given=given)


def _overrides() -> Iterator[Check]:
    given = _value("deepspeed.zeroStage", "self.zeroStage")
    for key in (key for key in ALLOWED if key.startswith("zero_optimization.")):
        only_3 = key.startswith("zero_optimization.stage3_")
        stage, advice = (MAX_ZERO_STAGE, "zeroStage: 3") if only_3 else (1, "zeroStage: 1 or more")
        yield Check(
            f"self.zeroStage < {stage} && has(self.overrides.{key.replace('.', '__dot__')})",
            f"{key} has no effect with zeroStage {given}: remove it, or write {advice}",
        )


def _places() -> Iterator[Rule]:
    def same(one: str, other: str) -> str:
        return f"self.{one}.uri.find('.*[^/]') == self.{other}.uri.find('.*[^/]')"

    message = "is spec.checkpoint.uri as well: write another folder (got '{self.output.uri}')"
    yield rule("spec", "output.uri", same("output", "checkpoint"), message, mirrors="output_beside_checkpoints")
    message = "is the model that training starts from: write another folder (got '{self.output.uri}')"
    yield rule("spec", "output.uri", same("output", "model"), message, mirrors="output_beside_the_model")


def _failures() -> Iterator[Rule]:
    reasons = texts(list(FailureReason))
    twice = "self.rules.map(r, r.reasons.filter(other, other == reason).size()).sum() > 1"
    yield rule(
        "spec.failurePolicy",
        "rules",
        f"has(self.rules) && {reasons}.exists(reason, {twice})",
        f"has a budget already: remove one of the two (got '{{{reasons}.filter(reason, {twice})[0]}}')",
        mirrors="one_budget_for_a_reason",
    )
