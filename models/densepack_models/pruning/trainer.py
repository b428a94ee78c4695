"""One training loop for pruning, filling and fine-tuning: transformers' Trainer, with our masks, losses and data.

Everything that decides about a step is in its checkpoint (weights, scores, steering, optimiser, learning rates, random
numbers, place in the data), so that a run that was killed continues as if nothing had happened.

    trainer = StudentTrainer(student, batches, teacher, setup)
    trainer.run(resume=True)
"""

from __future__ import annotations

import math
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, TrainerCallback, TrainerControl, TrainerState

from densepack_models.formats.writer import write_errors
from densepack_models.pruning.batches import TrainingBatches
from densepack_models.pruning.density import Steering, masked_density
from densepack_models.pruning.devices import chosen_device
from densepack_models.pruning.interruption import Interruption
from densepack_models.pruning.losses import SpanLogits, answer_loss, distillation_loss, score_regulariser
from densepack_models.pruning.options import PruningOptions, TrainingOptions
from densepack_models.pruning.schedule import Schedule
from densepack_models.pruning.student import Student
from densepack_models.pruning.teacher import Teacher
from densepack_models.pruning.training_log import TrainingLog, Values, describe_row
from densepack_runtime.errors import DensepackError
from densepack_runtime.host.story import Story
from densepack_runtime.question_answering.squad import SquadScore

CHECKPOINTS_KEPT = 2


class TrainingError(DensepackError):
    """A training that cannot go on: its loss or its gradients are no longer finite."""


@dataclass(frozen=True)
class TrainingSetup:
    """What one run needs beside student, data and teacher. `folder` holds its checkpoints and its log."""

    folder: Path
    total: int
    training: TrainingOptions
    pruning: PruningOptions | None = None
    evaluator: Callable[[Student], SquadScore] | None = None
    story: Story = field(default_factory=Story.silent)

    @property
    def schedule(self) -> Schedule | None:
        """Threshold and regularisation by step; None without masks."""
        if self.pruning is None:
            return None
        return self.pruning.schedule(self.total, self.training.warmup(self.total))


def steps_in_all(batches: int, training: TrainingOptions, processes: int = 1) -> int:
    """Optimiser steps of a run over so many batches a pass."""
    a_pass = math.ceil(math.ceil(batches / processes) / training.accumulation)
    return training.max_steps or max(1, math.ceil(training.epochs * a_pass))


def training_arguments(setup: TrainingSetup) -> TrainingArguments:
    """The settings of transformers' loop."""
    training = setup.training
    on_cpu = chosen_device(training) == "cpu"
    arguments = TrainingArguments(
        output_dir=str(setup.folder),
        per_device_train_batch_size=1,  # an item of the data is a whole batch
        gradient_accumulation_steps=training.accumulation,
        max_steps=setup.total,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        warmup_steps=training.warmup(setup.total),
        max_grad_norm=training.max_gradient_norm,
        bf16=training.precision == "bf16",
        fp16=training.precision == "fp16",
        use_cpu=on_cpu,
        seed=training.seed,
        save_strategy="no",  # StudentTrainer decides
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
        ddp_broadcast_buffers=False,
    )
    if arguments.n_gpu > 1:  # several GPUs are for several processes (torchrun), never for threads in one
        arguments._n_gpu = 1
    return arguments


class StudentTrainer(Trainer):
    """Trains a student against a teacher (or the answers alone), pruning it where it has masks."""

    def __init__(
        self, student: Student, batches: TrainingBatches, teacher: Teacher | None, setup: TrainingSetup
    ) -> None:
        self.student, self.teacher, self.setup = student, teacher, setup
        self.schedule = setup.schedule
        self.steering: Steering | None = None
        if self.schedule is not None and setup.pruning is not None and setup.pruning.target_density is not None:
            self.steering = Steering(student, self.schedule, setup.pruning.target_density)
        self.regularisation = 0.0
        self.interruption = Interruption()
        self._sums: dict[str, Tensor] = {}
        self._summed = 0
        self.last_score: SquadScore | None = None
        self.evaluation_failure: str | None = None
        self._saving_into: str | None = None
        self._training_log: TrainingLog | None = None
        self._advance: Callable[..., None] = lambda *_args, **_names: None
        super().__init__(
            model=student,
            args=training_arguments(setup),
            train_dataset=batches,
            data_collator=_the_only,
            callbacks=[_Steps(self)],
        )
        self.remove_callback(PrinterCallback)

    # --- the run ------------------------------------------------------------------------------------------------------

    def run(self, *, resume: bool) -> None:
        """Train to the end, from the last checkpoint if `resume` and there is one.

        Raises SystemExit, after a checkpoint, when a signal asked to stop; TrainingError when the loss is not finite.
        """
        last = last_checkpoint(self.setup.folder) if resume else None
        done = 0 if last is None else checkpoint_step(last)
        if self.is_world_process_zero():
            self._training_log = TrainingLog(self.setup.folder / "log.csv", resumed_at=done)
        if last is not None:
            self.setup.story.tell(f"going on from step {done} of {self.setup.total}")
        if last is not None and done >= self.setup.total:
            self._load_from_checkpoint(str(last))
            self._settle_masks()
            return
        with self.interruption, self.setup.story.bar("training", self.setup.total) as self._advance:
            self._advance(done)
            self.train(resume_from_checkpoint=None if last is None else str(last))
        if self.interruption.stop_signal is not None:
            name = signal.Signals(self.interruption.stop_signal).name
            self.setup.story.tell(
                f"{name}: stopped after step {self.state.global_step} of {self.setup.total}, the checkpoint is in "
                f"{last_checkpoint(self.setup.folder)}. Go on with the same command and --resume"
            )
            raise SystemExit(128 + self.interruption.stop_signal)

    def before_step(self, step: int) -> None:
        """Threshold and regularisation for the step to come, `step` are done."""
        masks = self.student.masks
        if masks is None or self.schedule is None:
            return
        if self.steering is not None:
            self.regularisation = self.steering.update(step)
            return
        masks.threshold = self.schedule.threshold(step)
        self.regularisation = self.schedule.regularisation(step)

    def after_step(self, step: int, control: TrainerControl) -> None:
        """Log, and say whether to save or to stop. What is to be evaluated is saved first, so `after_save` does it."""
        training, last = self.setup.training, step >= self.setup.total
        if last:
            self._settle_masks()
        evaluating = self._evaluates_after(step)
        if not evaluating and (last or step % training.log_every == 0):
            self._log_row(step)
        self._advance(1)
        control.should_save = last or evaluating or self.interruption.wanted or step % training.save_every == 0
        if self.interruption.stop_signal is not None:
            control.should_training_stop = True

    def _settle_masks(self) -> None:
        """Fix the masks of a steered run at its target, where its schedule had no hold to do it in."""
        if self.steering is not None:
            self.regularisation = self.steering.update(self.setup.total)

    def _evaluates_after(self, step: int) -> bool:
        every, last = self.setup.training.eval_every, step >= self.setup.total
        return self.setup.evaluator is not None and (last or (every > 0 and step % every == 0))

    def evaluate_student(self) -> SquadScore | None:
        """The student's score, by the first process. Where that fails it is told, and the training goes on."""
        if self.setup.evaluator is None or not self.is_world_process_zero():
            return None
        self.last_score = self.evaluation_failure = None
        try:
            self.last_score = self.setup.evaluator(self.student)
        except Exception as error:  # noqa: BLE001  # whatever it is, a training is worth more than its score
            self.evaluation_failure = f"{type(error).__name__}: {error}"
            self.setup.story.tell(f"the evaluation failed: {self.evaluation_failure}")
        return self.last_score

    def after_save(self, step: int) -> None:
        """Evaluate where it is time, and pause where a signal asked for it."""
        if self._evaluates_after(step):
            self._log_row(step, score=self.evaluate_student())
        if self.interruption.pause_wanted and self.interruption.stop_signal is None:
            self.setup.story.tell(f"paused after step {step} of {self.setup.total}; go on with SIGUSR2 or SIGCONT")
            self.interruption.wait_while_paused()
            if self.interruption.stop_signal is None:
                self.setup.story.tell(f"going on from step {step}")

    # --- the loss -----------------------------------------------------------------------------------------------------

    def compute_loss(self, model: nn.Module, inputs: dict[str, Tensor], *_: Any, **__: Any) -> Tensor:
        """0.9 · KD + 0.1 · CE + λ · R; without a teacher, CE + λ · R."""
        training, mask = self.setup.training, inputs["attention_mask"]
        start, end = model(inputs["input_ids"], mask, inputs["token_type_ids"])
        logits = SpanLogits(start, end)
        answers = answer_loss(logits, inputs["start"], inputs["end"], mask).mean()
        parts = {"ce": answers}
        loss = answers
        if self.teacher is not None:
            parts["kd"] = distillation_loss(logits, self.teacher.logits(inputs), mask, training.temperature)
            share = training.distillation_weight
            loss = share * parts["kd"] + (1 - share) * answers
        if self.student.masks is not None:
            parts["reg"] = self._regulariser()
            loss = loss + self.regularisation * parts["reg"]
        self._refuse_unfinite(loss, "loss")
        self._remember({"loss": loss, **parts})
        return loss

    def _regulariser(self) -> Tensor:
        masks, pruning = self.student.masks, self.setup.pruning
        assert masks is not None
        assert pruning is not None
        return score_regulariser(
            masks.scores("attention"),
            masks.scores("dense"),
            attention_coefficient=pruning.attention_coefficient,
            dense_coefficient=pruning.dense_coefficient,
            method=pruning.method,
        )

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        norm = super()._clip_grad_norm(model)  # type: ignore[no-untyped-call]
        if self.setup.training.precision != "fp16":  # there the scaler skips the step and tries a smaller scale
            self._refuse_unfinite(torch.as_tensor(norm), "gradient norm")
        return norm

    def _refuse_unfinite(self, value: Tensor, name: str) -> None:
        if torch.isfinite(value).all():
            return
        last = last_checkpoint(self.setup.folder)
        kept = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
        raise TrainingError(
            f"the {name} is {float(value.detach()):g} in step {self.state.global_step + 1}: {kept}. Lower the learning "
            "rate, or use --precision fp32, and start again (or --resume, where only chance was to blame)"
        )

    # --- optimiser and data -------------------------------------------------------------------------------------------

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW: scores with a learning rate of their own and no decay; biases and norms without decay."""
        if self.optimizer is None:
            training, pruning = self.setup.training, self.setup.pruning
            decayed: list[nn.Parameter] = []
            plain: list[nn.Parameter] = []
            scores: list[nn.Parameter] = []
            for name, parameter in self.student.named_parameters():
                if name.endswith(".scores"):
                    scores.append(parameter)
                else:
                    (plain if parameter.ndim < 2 else decayed).append(parameter)
            groups: list[dict[str, Any]] = [
                {"params": decayed, "weight_decay": training.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ]
            if scores and pruning is not None:
                groups.append({"params": scores, "weight_decay": 0.0, "lr": pruning.score_learning_rate})
            self.optimizer = torch.optim.AdamW(groups, lr=training.learning_rate, fused=True)
        optimizer: torch.optim.Optimizer = self.optimizer
        return optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> SequentialSampler:
        return SequentialSampler(train_dataset)

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return self._saving_into or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write everything to a temporary folder and rename it last; the oldest checkpoints go."""
        folder = self.setup.folder
        temporary = folder / ".saving"
        if self.is_world_process_zero():
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.accelerator.wait_for_everyone()
        self._saving_into = str(temporary)
        try:
            with write_errors(temporary):
                super()._save_checkpoint(model, trial)
        finally:
            self._saving_into = None
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            name = f"checkpoint-{self.state.global_step}"
            shutil.rmtree(folder / name, ignore_errors=True)
            (temporary / name).rename(folder / name)
            shutil.rmtree(temporary, ignore_errors=True)
            for old in checkpoints(folder)[:-CHECKPOINTS_KEPT]:
                shutil.rmtree(old)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.student.masks is not None:
            self.student.masks.loaded()

    # --- what is told -------------------------------------------------------------------------------------------------

    def _remember(self, parts: dict[str, Tensor]) -> None:
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, torch.zeros((), device=value.device)) + value.detach()
        self._summed += 1

    def _log_row(self, step: int, *, score: SquadScore | None = None) -> None:
        values: Values = {"step": step}
        values |= {name: float(total) / max(1, self._summed) for name, total in self._sums.items()}
        self._sums, self._summed = {}, 0
        if self.student.masks is not None and self.setup.pruning is not None:
            masks = self.student.masks
            density = masked_density(self.student, lambda grid: masks.make_mask(grid, masks.threshold))
            values |= {
                "tau": masks.threshold,
                "lambda": self.regularisation,
                "density": density.linear_density,
                "heads": density.heads,
            }
        if self.is_world_process_zero():
            if score is not None:
                values |= {"em": score.exact_match, "f1": score.f1}
            if self._training_log is not None:
                self._training_log.add(values)
            shown = describe_row(values)
            self._advance(0, description=shown)
            if self.setup.story.lines_for_steps:
                self.setup.story.tell(f"step {step} of {self.setup.total}: {shown}")


class _Steps(TrainerCallback):
    """Hands the events of transformers' loop to the trainer."""

    # ruff: noqa: ARG002  # the parameters are transformers'

    def __init__(self, trainer: StudentTrainer) -> None:
        self._trainer = trainer

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.before_step(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.after_step(state.global_step, control)

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._trainer.after_save(state.global_step)
        if self._trainer.interruption.stop_signal is not None:
            control.should_training_stop = True


def _the_only(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The collator: an item is a batch already."""
    [batch] = items
    return batch


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run, oldest first."""
    return sorted(folder.glob("checkpoint-*"), key=checkpoint_step)


def last_checkpoint(folder: Path) -> Path | None:
    return next(reversed(checkpoints(folder)), None)


def checkpoint_step(path: Path) -> int:
    """Steps that were done when it was written."""
    return int(path.name.removeprefix("checkpoint-"))
