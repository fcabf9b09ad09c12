"""How a run starts: a plan is made from the command and the files, then it is carried out."""

import contextlib
import copy
import dataclasses
import io
import math
import shutil
from pathlib import Path

import torch

import utils
from models import SMNet
from smnet.training import distributed
from smnet.training.dead_relus import revive
from smnet.training.identity import start_as_identity
from smnet.training.learner import Learner, Progress
from smnet.training.run_files import RunFiles
from smnet.training.samples import PatchDataset
from smnet.training.settings import SettingsDiffer, compare
from utils import SMNetError

REVIVE_CROPS = 64  # in which a ReLU must be dead, to be revived


@dataclasses.dataclass
class StartPlan:
    """What a start will do."""

    say: list[str] = dataclasses.field(default_factory=list)  # lines to print
    state: dict | None = None  # a training state to go on from
    state_file: Path | None = None  # where that lies
    model: SMNet | None = None  # weights to begin with, where there is no state
    progress: Progress = dataclasses.field(default_factory=Progress)
    replaced: list[Path] = dataclasses.field(default_factory=list)  # an earlier run would lose them
    best: Path | None = None  # weights that become NAME_best.pth
    removed: list[Path] = dataclasses.field(default_factory=list)  # before the first step
    save_state: bool = True  # at once: then --resume finds this run and no other


def start(files: RunFiles, train_set: PatchDataset) -> None:
    """Bring the learner to where the command says, in every process alike; the first one reads and
    writes the files. `--revive` looks at crops of `train_set`.

    Raises:
        SMNetError: nothing to continue from, a state of other settings, an earlier run's files in
            the way, another process that trains this run, or a folder that cannot be written.
    """
    failure = None
    if distributed.rank() == 0:
        try:
            files.lock()
            carry_out(make_plan(files), files, train_set)
        except (SMNetError, OSError) as error:
            failure = error
    if distributed.broadcast(failure is not None):  # or the others would wait for the state
        raise failure or SMNetError("process 0 cannot start, so this one ends")
    if distributed.LAUNCHED:
        share_state(files.learner)


def make_plan(files: RunFiles) -> StartPlan:
    """What `--checkpoint`, `--resume` or `--init` asks for, else a start from the beginning.

    Raises:
        SMNetError: see `start`.
    """
    args = files.args
    if args.resume or is_restart(files):
        plan = plan_to_resume(files)
        at_hand = plan.progress.epoch + 1
    elif args.checkpoint:
        plan = plan_to_continue(files, args.checkpoint)
        at_hand = plan.progress.epoch + (plan.progress.batch > 0)
    else:
        plan, at_hand = plan_afresh(files), 0
    # The epoch at hand may have its weights already: a run ended in it, or between its weights and
    # its state.
    later = [files.file(epoch) for epoch in files.epochs_on_disk() if epoch > at_hand]
    plan.replaced = later + plan.replaced
    if plan.replaced and not args.overwrite:
        raise SMNetError(
            f"an earlier run's {plan.replaced[0]} would be replaced; give --resume to continue it, "
            "--overwrite to replace it, or another --weights_dir and --log_dir"
        )
    plan.removed += files.leftovers()
    return plan


def is_restart(files: RunFiles) -> bool:
    """Whether torchrun started this process anew (`--max-restarts`): there is a state that this
    launch of it wrote."""
    if not distributed.LAUNCHED:
        return False
    for file in (files.file("state"), files.file("state_previous")):
        with contextlib.suppress(SMNetError):
            return utils.read_checkpoint(file).get("launch") == distributed.launch_id()
    return False


def plan_to_resume(files: RunFiles) -> StartPlan:
    """From the newest state."""
    state, path, notes = files.read_state()
    plan = plan_from_state(files, state, path)
    done = f"resumed after {plan.progress.epoch} epochs, at step {plan.progress.step}"
    return dataclasses.replace(plan, say=[*notes, *plan.say, done])


def plan_to_continue(files: RunFiles, epoch: int) -> StartPlan:
    """From the training state where it is of the same step as that epoch's weights, else from
    these."""
    weights_file, state_file = files.file(epoch), files.file("state")
    if not weights_file.is_file():
        raise SMNetError(
            f"no weights {weights_file} to continue from; {files.advice_without_state()}"
        )
    content = utils.read_checkpoint(weights_file)
    step = epoch * files.learner.steps_per_epoch
    # A state that would be replaced by a lesser one is in the way.
    why, in_the_way = "there is no training state of that epoch", []
    if state_file.is_file():
        try:
            state = utils.read_checkpoint(state_file)
            state_step = state.get("progress", {}).get("step", 0)
            if state_step == content.get("step"):
                plan = plan_from_state(files, state, state_file)
                exactly = f"continuing exactly after epoch {epoch}, from the training state"
                return dataclasses.replace(
                    plan, say=[*plan.say, f"{exactly} {state_file}"], save_state=True
                )
            in_the_way = [state_file] if state_step > step else []
        except utils.DamagedFile as error:
            why = f"the training state cannot be used ({error})"
        except SMNetError as error:
            why, in_the_way = f"the training state cannot be used ({error})", [state_file]
    say = [
        f"continuing after epoch {epoch} from its weights alone, {weights_file}: {why}, so the "
        "optimizer starts anew"
    ]
    missing = step - content.get("step", step)
    if 0 < missing < files.learner.steps_per_epoch:
        say.append(
            f"epoch {epoch} ended early (--max_steps): its last {missing} steps are left out"
        )
    psnr, best, is_later = best_until(files, epoch)
    return StartPlan(
        say=say,
        model=read_weights(files.learner, weights_file, content),
        progress=Progress(epoch=epoch, step=step, seconds=files.seconds_until(epoch), best=psnr),
        replaced=[*in_the_way, *[files.file("best")] * is_later],
        best=best,
    )


def plan_afresh(files: RunFiles) -> StartPlan:
    """From the beginning, with `--init` from given weights; no file of an earlier run may be
    there."""
    plan = StartPlan(removed=files.event_files())
    if files.args.init:
        path = Path(files.args.init)
        plan.model = read_weights(files.learner, path, utils.read_checkpoint(path))
        but = ", without --identity_start" if files.args.identity_start else ""
        plan.say.append(f"starting from the weights in {path}{but}")
    elif files.args.identity_start:
        plan.model = start_as_identity(copy.deepcopy(files.learner.model))
    others = (
        *(files.file(what) for what in ("state", "state_previous", "best")),
        files.log_file,
        *files.event_files(),
    )
    plan.replaced = [path for path in others if path.is_file()]
    return plan


def plan_from_state(files: RunFiles, state: dict, path: Path) -> StartPlan:
    """From a training state, after checking that the command agrees with it."""
    try:
        progress = Progress(**state["progress"])
        check_shape(files.learner, path, state["channels"], state["width"], state.get("shuffle", 1))
        comparison = compare(state["settings"], files.settings)
    except SettingsDiffer as difference:
        raise SMNetError(
            f"{path} is of another run: {difference}; give the same, or start a run from its "
            "weights with --init and another --weights_dir and --log_dir"
        ) from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise not_of_this_version(path, error) from None
    if not comparison.same_validation:
        progress.best = -math.inf
    return StartPlan(
        say=comparison.say, state=state, state_file=path, progress=progress, save_state=False
    )


def not_of_this_version(path: Path, error: Exception) -> SMNetError:
    return SMNetError(
        f"{path} is not a training state of this version ({error}); continue from weights with -c N"
    )


def carry_out(plan: StartPlan, files: RunFiles, train_set: PatchDataset) -> None:
    """Do what the plan says."""
    learner = files.learner
    if plan.state:
        take_state(plan, files)
    elif plan.model:
        if files.args.revive:
            plan.say.append(revive_in(plan.model, train_set, seed=files.args.seed))
        for target in (learner.model, learner.validated):
            target.load_state_dict(plan.model.state_dict())
    learner.done = plan.progress
    for folder in (files.args.weights_dir, files.log_folder):
        utils.make_folder(folder)
    files.lock()  # where there was no folder before
    for line in plan.say:
        print(line)
    for path in plan.removed:
        utils.remove(path)
    if plan.save_state:
        files.save_state()
        # With the new state safe, or --resume would find an earlier run's files in the way.
        for path in plan.replaced:
            if path != files.file("state") and path.is_file():
                utils.remove(path)
    if plan.best:
        with utils.replacing(files.file("best")) as temporary:
            shutil.copyfile(plan.best, temporary)


def revive_in(model: SMNet, train_set: PatchDataset, *, seed: int) -> str:
    """Revive the ReLUs that are dead in crops from all over the training set; what was done, in
    words."""
    count = min(REVIVE_CROPS, train_set.stored)
    crops = (train_set[0, i * train_set.stored // count][1][None] for i in range(count))
    dead, channels = revive(model, crops, seed=seed)
    train_set.close()  # before workers are forked
    return f"revived {dead:,} dead ReLUs of {channels:,} in dense blocks"


def take_state(plan: StartPlan, files: RunFiles) -> None:
    """Take over the learner's part of a state and what its files need of it."""
    try:
        files.learner.load(plan.state)
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise not_of_this_version(plan.state_file, error) from None
    if plan.state_file == files.file("state_previous"):
        # Or the next save would keep the damaged one in its place.
        plan.state_file.replace(files.file("state"))
    files.own_state, files.saved_step = True, plan.progress.step
    files.points = plan.state.get("points", [])
    files.settings = {**files.settings, "init": plan.state["settings"].get("init")}


def share_state(learner: Learner) -> None:
    """Give all processes what the first one's learner has."""
    buffer = io.BytesIO()
    torch.save(learner.state(), buffer)
    content = io.BytesIO(distributed.broadcast(buffer.getvalue()))
    learner.load(torch.load(content, map_location="cpu", weights_only=True))


def best_until(files: RunFiles, epoch: int) -> tuple[float, Path | None, bool]:
    """(the highest validation PSNR up to an epoch, the weights to make NAME_best.pth of where it is
    missing or of a later epoch, whether it is of a later one); weights validated at another sigma
    or on other pictures do not count."""
    best_file = files.file("best")
    is_later = best_file.is_file() and utils.read_checkpoint(best_file).get("epoch", 0) > epoch
    stays = best_file.is_file() and not is_later
    candidates = [best_file, files.file(epoch)]
    if not stays:
        candidates = [files.file(each) for each in files.epochs_on_disk() if each <= epoch]
    psnr, best = -math.inf, None
    for file in candidates:
        if file.is_file():
            content = utils.read_checkpoint(file)
            pictures = files.settings["val_data"]  # older weights do not say theirs
            comparable = (
                content.get("val_sigma") == files.args.val_noiseL
                and content.get("val_data", pictures) == pictures
            )
            known = content.get("epoch", math.inf) <= epoch and comparable
            if known and content["val_psnr"] > psnr:
                psnr, best = content["val_psnr"], file
    return psnr, None if stays else best, is_later


def read_weights(learner: Learner, path: Path, content: dict) -> SMNet:
    """The network in a checkpoint of weights, ours or the authors', which must be of the learner's
    shape."""
    model = utils.model_from_checkpoint(content, path)
    check_shape(learner, path, model.channels, model.width, model.shuffle)
    return model


def check_shape(learner: Learner, path: Path, channels: int, width: int, shuffle: int) -> None:
    """Raise where a checkpoint is of another network than the learner's."""
    ours = learner.model
    if channels != ours.channels:
        raise SMNetError(
            f"{path} is for {channels} channels, this script trains {ours.channels}; use the other "
            "script"
        )
    for name, theirs, own in (
        ("width", width, ours.width),
        ("shuffle", shuffle, ours.shuffle),
    ):
        if theirs != own:
            raise SMNetError(
                f"{path} has {name} {theirs}, this command --{name} {own}; give --{name} {theirs}"
            )
