"""ReLUs that died are counted and revived, and the penalty keeps those of the dilated convolutions
alive."""

import pytest
import torch
from training_helpers import folders, log_lines

import train_gray
from models import SMNet
from smnet.training.dead_relus import (
    LOWEST,
    DeadReluPenalty,
    counting_dead_relus,
    relu_convs,
    revive,
    share,
)


def network() -> SMNet:
    torch.manual_seed(0)
    return SMNet(channels=1, width=8)


def kill(model: SMNet, block: int) -> None:
    """Let a block's dilated convolution be below zero everywhere."""
    contextual = model.image_memory.contextual[block]
    with torch.no_grad():
        contextual.dense[2].fusion.bias.fill_(10.0)  # the dilated convolution gets positive maps
        contextual.dilated.weight.abs_().neg_()


def dead_share(model: SMNet, x: torch.Tensor, block: int) -> float:
    """Of the channels of a block's dilated convolution."""
    with torch.no_grad(), counting_dead_relus(model) as dead:
        model(x)
    return dead[model.image_memory.contextual[block].dilated].float().mean().item()


def test_every_relu_of_the_network_is_counted():
    model = network()
    assert len(relu_convs(model)) == 6 * 4 + 3 * (3 * 4 + 1)
    with torch.no_grad(), counting_dead_relus(model) as dead:
        model(torch.rand(2, 1, 40, 40))
    channels = 6 * 4 * 4 + 3 * (3 * 4 + 1) * 8  # growth 4 in the noise memory, 8 in the image's
    assert sum(len(flags) for flags in dead.values()) == channels
    assert 0 <= share(dead) < 0.5
    with torch.no_grad():
        model(torch.rand(2, 1, 40, 40))  # not counted any more
    assert len(dead) == len(relu_convs(model))


def test_a_killed_convolution_is_counted_as_dead():
    model, x = network().eval(), torch.rand(1, 1, 48, 48)
    kill(model, 1)
    assert dead_share(model, x, block=1) == 1


def test_the_penalty_is_that_of_its_definition():
    model, x = network().train(), torch.rand(2, 1, 40, 40)
    kill(model, 0)
    penalty, seen = DeadReluPenalty(model), []
    for block in model.image_memory.contextual:
        block.dilated.register_forward_hook(lambda _, inputs, maps: seen.append(maps.clone()))
    model(x)
    expected = 0.0
    for maps in seen:
        ratio = maps.mean((0, 2, 3)) / (maps.std((0, 2, 3)) + 1e-4)
        expected += (LOWEST - ratio).clamp(min=0).square().mean().item()
    assert expected > 1
    assert penalty.take().item() == pytest.approx(expected, rel=1e-4)


def test_it_counts_neither_validation_nor_a_pass_twice():
    model, x = network().train(), torch.rand(1, 1, 40, 40)
    penalty = DeadReluPenalty(model)
    with torch.no_grad():
        model(x)
    model.eval()(x)
    assert penalty.penalties == []
    model.train()
    for _ in range(2):
        model(x)
        assert len(penalty.penalties) == 3
        penalty.take()
        assert penalty.penalties == []


@pytest.mark.parametrize("amp", [False, True])
def test_it_revives_what_the_error_alone_leaves_dead(amp):
    """With a dead ReLU the error has no gradient there; the penalty has."""
    model, x = network().train(), torch.rand(2, 1, 48, 48)
    kill(model, 0)
    penalty, dilated = DeadReluPenalty(model), model.image_memory.contextual[0].dilated
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with torch.autocast("cpu", enabled=amp):
        (model(x) - x).square().mean().backward()
    assert dilated.weight.grad.abs().max() == 0
    penalty.take()
    for _ in range(100):
        optimizer.zero_grad()
        with torch.autocast("cpu", enabled=amp):
            error = (model(x).float() - x).square().mean()
        (error + 1e-3 * penalty.take()).backward()
        optimizer.step()
    assert dead_share(model, x, block=0) == 0


def test_dead_relus_are_revived_without_a_change():
    model, pictures = network(), [torch.rand(1, 1, 48, 48) for _ in range(3)]
    first, block = model.noise_memory.encoder[1], model.image_memory.contextual[2].dense[0]
    with torch.no_grad():
        first.convs[2].bias[1] = -100.0
        for conv in block.convs:
            conv.bias.fill_(-100.0)
        before = [model(x) for x in pictures]
        alive = torch.zeros(0, dtype=torch.bool)
        for x in pictures:
            with counting_dead_relus(model) as dead:
                model(x)
            flags = torch.cat([dead[conv] for conv in relu_convs(model) if conv.bias is not None])
            alive = ~flags | (alive if len(alive) else ~flags)
    lost = int((~alive).sum())
    assert lost >= 1 + 4 * 8
    assert revive(model, pictures, seed=1) == (lost, len(alive))
    with torch.no_grad():
        for x, y in zip(pictures, before):
            assert (model(x) - y).abs().max() < 1e-4
        with counting_dead_relus(model) as dead:
            model(torch.cat(pictures))
    assert not any(dead[conv].any() for conv in (*block.convs, first.convs[2]))
    assert first.convs[2].weight[1].sum((1, 2)).abs().max() < 1e-5
    model(pictures[0]).square().mean().backward()
    assert block.fusion.weight.grad[:, 8:].abs().min(0).values.max() > 0  # and now they can learn
    assert revive(model, pictures, seed=1)[0] == 0


def test_revived_weights_are_started_from(train_args, tmp_path, capsys):
    train_gray.main([*train_args, "--epochs", "1"])
    file = tmp_path / "weights" / "model_gray_L25_1.pth"
    content = torch.load(file, weights_only=True)
    bias = "image_memory.contextual.1.dense.0.convs.0.bias"
    content["model"][bias].fill_(-100.0)
    torch.save(content, file)
    words = [*train_args, *folders(tmp_path / "b"), "--epochs", "1", "--lr", "0"]
    words += ["--init", str(file), "--revive"]
    capsys.readouterr()
    assert train_gray.main(words) == 0
    said = capsys.readouterr().out
    assert " dead ReLUs of 192 in dense blocks\n" in said
    revived = torch.load(tmp_path / "b" / "weights" / file.name, weights_only=True)["model"]
    assert revived[bias].abs().max() == 0
    assert train_gray.main([*words, "--resume", "--epochs", "2"]) == 0  # once is enough
    assert "revived" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        train_gray.main([*train_args, "--revive"])


def test_the_option_changes_training_and_is_off_by_default(train_args, tmp_path, capsys):
    train_gray.main(train_args)
    with_penalty = [*train_args, "--dead_relu_penalty", "10"]
    train_gray.main([*with_penalty, *folders(tmp_path / "b"), "--accumulate", "2"])
    plain, other = (log_lines(folder)[-1] for folder in (tmp_path, tmp_path / "b"))
    assert plain["loss"] != other["loss"]
    assert abs(other["loss"] / plain["loss"] - 1) > 1e-3  # by more than --accumulate's rounding
    assert 0 <= other["dead_relus"] <= 1
    capsys.readouterr()
    assert (
        train_gray.main([*train_args, "--resume", "--dead_relu_penalty", "1", "--epochs", "4"]) == 0
    )
    assert "--dead_relu_penalty was 0.0, is now 1.0" in capsys.readouterr().out
