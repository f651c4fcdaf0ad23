import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketvit.core.config import Config, load_yaml, parse_config, parse_count
from pocketvit.core.errors import ConfigError


class Settings(Config):
    epochs: int = 10
    label_smoothing: float = 0.1


def test_unknown_key_names_the_file_and_the_nearest_key():
    with pytest.raises(ConfigError, match=r"my\.yaml: there is no setting 'epoch'\. Did you mean epochs"):
        parse_config(Settings, {"epoch": 3}, where="my.yaml")


class Outer(Config):
    inner: Settings = Settings()


def test_the_nearest_key_is_looked_for_in_the_group_it_was_given_in():
    with pytest.raises(ConfigError, match=r"no setting 'inner\.epoch'\. Did you mean inner\.epochs\?"):
        parse_config(Outer, {"inner": {"epoch": 3}}, where="my.yaml")


def test_every_mistake_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_config(Settings, {"epochs": "many", "zzz": 1}, where="my.yaml")
    assert "epochs" in caught.value.message
    assert "'many'" in caught.value.message
    assert "Known keys: epochs, label_smoothing" in caught.value.message


def test_good_settings_are_immutable():
    settings = parse_config(Settings, {"epochs": 3}, where="x")
    assert settings.epochs == 3
    with pytest.raises(ValueError):
        settings.epochs = 4


@pytest.mark.parametrize(
    ("text", "count"),
    [("100M", 100_000_000), ("1.5G", 1_500_000_000), ("2.5b", 2_500_000_000), ("250k", 250_000), (" 7 ", 7)],
)
def test_counts(text, count):
    assert parse_count(text) == count


@given(st.integers(1, 10**12))
def test_plain_integers_are_exact(value):
    assert parse_count(str(value)) == value


@pytest.mark.parametrize("text", ["", "M", "-3M", "1e6", "10 MB", "0", "nan"])
def test_not_a_count(text):
    with pytest.raises(ConfigError, match="is not a count"):
        parse_count(text)


def test_yaml_problems_are_config_errors(tmp_path):
    (tmp_path / "list.yaml").write_text("- a\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    for name, words in [
        ("none.yaml", "Cannot read"),
        ("list.yaml", "key: value"),
        ("broken.yaml", "not valid YAML"),
    ]:
        with pytest.raises(ConfigError, match=words):
            load_yaml(tmp_path / name)
    (tmp_path / "good.yaml").write_text("epochs: 3\n")
    assert load_yaml(tmp_path / "good.yaml") == {"epochs": 3}
