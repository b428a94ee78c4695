"""The options of `densepack prune`, `fill` and `finetune` are the fields of their dataclasses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Annotated

import pytest
import typer

from densepack_export.commands.command_signature import changed, told_command_line, with_options
from densepack_export.commands.training import RunOptions
from densepack_models.pruning.option_fields import option, options_of
from densepack_models.pruning.options import PRESETS, PruningOptions, TrainingOptions, block_from_text
from densepack_runtime.commands.options import app
from densepack_runtime.errors import InputError
from tests.command_line import CommandLine, Outcome

# In the order of the help, which is that of recorded command lines.
TRAINING = (
    "--state-dir --resume --epochs --max-steps --limit --token-budget --max-length --doc-stride --bad-answers "
    "--learning-rate --weight-decay --warmup-steps --distillation-weight --dropout --attention-dropout --accumulation "
    "--precision --bf16 --device --threads --seed --save-every --log-every --eval-squad --eval-every --eval-limit "
    "--half --overwrite --json"
)
PRUNING = (
    "--preset --method --attention-block --target-density --lambda --attention-coefficient --dense-coefficient "
    "--first-threshold --last-threshold --initial-warmups --final-warmups --score-learning-rate --init --fisher-batches"
)
FILES = ("start", "out", "--teacher", "teacher", "--data", "train.json")


def defaults_of(name: str) -> dict[str, object]:
    """Spelling and default of every option of a command, in the order of its help."""
    command = typer.main.get_command(app)
    parameters = command.commands[name].params  # type: ignore[attr-defined]
    return {each.opts[0]: each.default for each in parameters if each.opts[0].startswith("--")}


def told(outcome: Outcome) -> str:
    """What is said on stderr, without frames and line breaks."""
    return " ".join(outcome.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("name", "epochs", "expected"),
    [
        ("prune", 20.0, f"--teacher --data {PRUNING} {TRAINING}"),
        ("fill", 4.0, f"--teacher --data {TRAINING}"),
        ("finetune", 2.0, f"--data --teacher {TRAINING}"),
    ],
)
def test_options_and_defaults_of_the_commands(name: str, epochs: float, expected: str) -> None:
    defaults = defaults_of(name)
    assert " ".join(defaults) == expected
    assert defaults["--epochs"] == epochs
    published = TrainingOptions()
    for field in set(options_of(TrainingOptions)) - {"epochs", "max_gradient_norm", "temperature"}:
        assert defaults[f"--{field.replace('_', '-')}"] == getattr(published, field)


def test_a_field_more_is_an_option_more_of_all_three() -> None:
    code = """
        from dataclasses import dataclass
        from densepack_models.pruning import options
        from densepack_models.pruning.option_fields import option

        @dataclass(frozen=True, slots=True)
        class More(options.TrainingOptions):
            patience_steps: int = option(7, "Steps without progress.", least=2)

        options.TrainingOptions = More
        import typer
        from densepack_export.cli import app

        for name in ("prune", "fill", "finetune"):
            [found] = [each for each in typer.main.get_command(app).commands[name].params if "patience" in each.name]
            print(name, found.opts, found.default, found.help, found.metavar)
    """
    lines = "\n".join(line.removeprefix(" " * 8) for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{name} ['--patience-steps'] 7 Steps without progress. <int range> [x>=2]"
        for name in ("prune", "fill", "finetune")
    ]


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("max_steps", 0, 2),
        ("token_budget", 15, 2),
        ("max_length", 15, 2),
        ("doc_stride", -1, 2),
        ("warmup_steps", -1, 2),
        ("accumulation", 0, 2),
        ("seed", -1, 2),
        ("save_every", 0, 2),
        ("log_every", 0, 2),
        ("eval_every", -1, 2),
        ("seed", 2**32, 2),
        ("epochs", 0.0, 1),
        ("epochs", float("inf"), 1),
        ("learning_rate", -3e-5, 1),
        ("learning_rate", 0.0, 1),
        ("learning_rate", float("nan"), 1),
        ("weight_decay", -0.1, 1),
        ("distillation_weight", 1.5, 1),
        ("dropout", -0.5, 1),
        ("attention_dropout", 2.0, 1),
    ],
)
def test_out_of_bounds_is_told_alike_by_library_and_command_line(
    densepack: CommandLine, field: str, value: float, code: int
) -> None:
    with pytest.raises(InputError) as caught:
        changed(TrainingOptions(), {field: value})
    done = densepack("prune", *FILES, f"--{field.replace('_', '-')}", value)
    assert (done.code, str(caught.value) in told(done)) == (code, True), done.err


@pytest.mark.parametrize("field", ["lambda", "score-learning-rate", "dense-coefficient", "target-density"])
def test_a_negative_weight_of_pruning_is_refused_before_anything_is_read(densepack: CommandLine, field: str) -> None:
    done = densepack("prune", *FILES, f"--{field}", -1)
    assert done.code == 1
    [line] = done.err.splitlines()
    assert "density of -100 % cannot be reached" in line or f"{field.replace('-', '_')} is -1" in line


def test_out_of_bounds_of_pruning_and_run_is_told_alike(densepack: CommandLine) -> None:
    with pytest.raises(InputError) as caught:
        PruningOptions(fisher_batches=0)
    assert str(caught.value) in told(densepack("prune", *FILES, "--fisher-batches", 0))
    with pytest.raises(InputError) as caught:
        RunOptions(eval_limit=0)
    assert str(caught.value) in told(densepack("fill", *FILES, "--eval-limit", 0))


@pytest.mark.parametrize("option", ["--bad-answers", "--precision", "--device", "--init", "--preset"])
def test_a_choice_that_there_is_not_is_refused_at_once(densepack: CommandLine, option: str) -> None:
    done = densepack("prune", *FILES, option, "magic")
    assert done.code == 2
    assert option in told(done)


def test_a_block_that_cannot_be_read_is_refused_at_once(densepack: CommandLine) -> None:
    done = densepack("prune", *FILES, "--attention-block", "32")
    assert done.code == 2
    assert "an attention block is ROWSxCOLUMNS, like 32x32, or `head`; got '32'" in told(done)


def test_what_was_not_asked_for_is_the_presets() -> None:
    assert changed(PRESETS["magnitude"], {"last_threshold": None, "epochs": 3.0}) == PRESETS["magnitude"]
    assert changed(PRESETS["struct"], {"attention_block": "8x4"}).attention_block == (8, 4)
    assert changed(PRESETS["hybrid"], {"attention_block": "head", "regularisation": 0.0}) == replace(
        PRESETS["struct"], regularisation=0.0
    )


@dataclass(frozen=True, slots=True)
class Sieve:
    """A field of every kind."""

    mesh: tuple[int, int] | None = option((1, 2), "Holes.", metavar="ROWSxCOLUMNS", parse=block_from_text)
    depth: float = option(2.0, "Depth in cm.", flag="--how-deep", by_preset=True)
    shaken: bool = option(False, "Shake it.", before="depth")
    colour: Annotated[str, typer.Option("--paint", help="Colour.")] = option("red", told=False)
    weight: float = 3.0


def run_sieve(*arguments: str) -> tuple[str, Sieve, str]:
    """What a command with these fields gets, and the command line that it tells."""
    seen: list[tuple[str, Sieve, str]] = []
    commands = typer.Typer()
    commands.callback()(lambda: None)

    @commands.command()
    @with_options(Sieve(colour="blue"))
    def sift(context: typer.Context, sand: str, **asked: object) -> None:
        seen.append((sand, changed(Sieve(depth=5.0), asked), told_command_line(context, Sieve)))

    commands(["sift", *arguments], standalone_mode=False)
    [found] = seen
    return found


def test_a_command_gets_what_was_asked_for() -> None:
    assert run_sieve("fine") == ("fine", Sieve(depth=5.0, colour="blue"), "densepack sift fine")
    asked = ("--mesh", "3x4", "--how-deep", "1", "--shaken", "--paint", "green")
    assert run_sieve("a/b/fine", *asked) == (
        "a/b/fine",
        Sieve((3, 4), 1.0, True, "green"),
        "densepack sift fine --mesh 3x4 --shaken --how-deep 1.0",
    )
    assert run_sieve("fine", "--mesh", "head")[1].mesh is None
