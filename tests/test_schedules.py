"""Learning rates against PyTorch's own schedulers, and against their definitions written out."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, PolynomialLR, ReduceLROnPlateau, StepLR

from training.recipe import ScheduleConfig
from training.schedules import Schedule, one_cycle

EPOCHS, EPOCH_STEPS, HIGHEST = 5, 7, 0.3
STEPS = EPOCHS * EPOCH_STEPS


def optimizer(rate=HIGHEST):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)


def rates(config):
    """Of every step of a training."""
    schedule, found = Schedule(config, optimizer(), EPOCH_STEPS, EPOCHS), []
    for _ in range(STEPS):
        found.append(schedule.rate)
        schedule.step()
    return found


def rates_of(make):
    """Of one of PyTorch's schedulers."""
    its_optimizer = optimizer()
    scheduler, found = make(its_optimizer), []
    for _ in range(STEPS):
        found.append(its_optimizer.param_groups[0]["lr"])
        its_optimizer.step()
        if scheduler.last_epoch < STEPS - 1:
            scheduler.step()
    return found


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (ScheduleConfig(name="cosine", warmup=0), lambda o: CosineAnnealingLR(o, STEPS)),
        (ScheduleConfig(name="polynomial", warmup=0), lambda o: PolynomialLR(o, STEPS, power=1.0)),
        (ScheduleConfig(name="polynomial", warmup=0, power=2.5), lambda o: PolynomialLR(o, STEPS, power=2.5)),
        (ScheduleConfig(name="exponential", warmup=0, decay=0.7), lambda o: StepLR(o, EPOCH_STEPS, gamma=0.7)),
    ],
    ids=["cosine", "polynomial", "polynomial 2.5", "exponential"],
)
def test_schedules_are_pytorchs(config, reference):
    assert rates(config) == pytest.approx(rates_of(reference), rel=1e-9, abs=1e-12)


def test_one_cycle_is_pytorchs_but_for_a_step():
    """PyTorch reaches the highest and the lowest rate a step earlier: over many steps that is nothing."""
    steps, its_optimizer = 5000, optimizer()
    scheduler = OneCycleLR(its_optimizer, HIGHEST, total_steps=steps, pct_start=0.2, cycle_momentum=False)
    for step in range(steps - 1):
        assert HIGHEST * one_cycle(step, steps, 0.2) == pytest.approx(scheduler.get_last_lr()[0], abs=1e-3 * HIGHEST)
        its_optimizer.step()
        scheduler.step()
    assert one_cycle(1000, steps, 0.2) == 1.0
    assert one_cycle(steps, steps, 0.2) == pytest.approx(1 / 250_000)


@pytest.mark.parametrize("name", ["constant", "cosine", "polynomial", "exponential", "plateau"])
def test_the_warm_up_is_a_straight_line(name):
    found = rates(ScheduleConfig(name=name, warmup=0.4))
    rising = int(0.4 * STEPS)
    assert found[:rising] == pytest.approx([HIGHEST * (step + 1) / (rising + 1) for step in range(rising)])
    assert max(found) == pytest.approx(found[rising])


RESULTS = [5.0, 4.0, 4.5, 4.2, 4.0, 3.9, 4.0, math.nan, 4.0, 4.0, 4.0, 4.0, 4.0]


@pytest.mark.parametrize("patience", [0, 1, 2])
def test_a_plateau_lowers_the_rate_as_pytorch_does(patience):
    its_optimizer = optimizer()
    theirs = ReduceLROnPlateau(its_optimizer, factor=0.5, patience=patience, threshold=0)
    ours = Schedule(ScheduleConfig(name="plateau", warmup=0, decay=0.5, patience=patience), optimizer(), 1, 99)
    for epoch, result in enumerate(RESULTS):
        ours.epoch_done(all(result < before for before in RESULTS[:epoch] if before == before))
        theirs.step(result)
        assert ours.rate == pytest.approx(its_optimizer.param_groups[0]["lr"])
    assert ours.rate < HIGHEST


def test_a_schedule_goes_on_from_its_state():
    config = ScheduleConfig(name="plateau", warmup=0.1, decay=0.5, patience=0)
    first, second = (Schedule(config, optimizer(), EPOCH_STEPS, EPOCHS) for _ in range(2))
    for _ in range(6):
        first.step()
        first.epoch_done(better=False)
    second.load_state_dict(first.state_dict())
    assert second.rate == first.rate
    first.step(), second.step()
    assert second.rate == first.rate < HIGHEST
