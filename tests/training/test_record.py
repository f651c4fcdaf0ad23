import pytest

from pocketvit.backbones import BuildOptions
from pocketvit.backbones.pretrained import PretrainedReport
from pocketvit.training.record import card_of, epoch_line, epoch_row, origin_of
from pocketvit.training.state import Best, Progress

BEST = Best(3, 0.975, 0.1, "ema", {})


def test_the_row_of_an_epoch():
    done = Progress(
        epoch=2,
        lr=0.00123456789,
        epoch_loss=3.0,
        epoch_good=4,
        epoch_batch=5,
        epoch_seconds=2.0,
        epoch_wait=0.5,
    )
    assert epoch_row(done, BEST, images=100) == {
        "epoch": 3,
        "lr": 0.00123457,
        "train_loss": 0.75,
        "val_loss": 0.1,
        "val_top1": 0.975,
        "seconds": 2.0,
        "images_per_second": 50.0,
        "data_wait_share": 0.25,
    }


@pytest.mark.parametrize(("epoch", "marked"), [(3, True), (7, False)])
def test_the_line_marks_the_best_epoch(epoch, marked):
    row = {"epoch": epoch, "train_loss": 0.75, "val_loss": 0.1, "val_top1": 0.975, "seconds": 2.0}
    line = epoch_line(row, BEST, epochs=10)
    assert f"epoch  {epoch}/10  loss 0.750" in line
    assert "top-1 97.50%" in line
    assert ("(best)" in line) is marked


@pytest.mark.parametrize("used", [True, False])
def test_the_card_says_where_the_weights_come_from(data, preprocessing, used):
    report = PretrainedReport(
        used=used, source="hub/x" if used else "", licence="MIT" if used else "", message=""
    )
    card = card_of("mobilevitv2_050", BuildOptions(), data, preprocessing, report, BEST)
    assert (card.name, card.classes, card.accuracy) == ("mobilevitv2_050", data.classes, 0.975)
    assert (card.weights_licence == "MIT") is used
    origin = origin_of(data, report, BEST)
    assert (origin["pretrained"] == "hub/x") is used
    assert (origin["epoch"], origin["weights"]) == (3, "ema")
