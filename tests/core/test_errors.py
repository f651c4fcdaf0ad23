import pocketvit.core.errors as errors


def test_every_error_is_in_the_tree_and_its_code_is_documented():
    for name in errors.__all__:
        cls = getattr(errors, name)
        assert issubclass(cls, errors.PocketvitError)
        line = next(line for line in (errors.__doc__ or "").splitlines() if f" {name} " in f"{line} ")
        assert f" {cls.exit_code} " in line


def test_message_and_fix_are_kept_apart_and_shown_together():
    error = errors.DataError("No images in photos/.", fix="Add some.")
    assert (error.message, error.fix, str(error)) == (
        "No images in photos/.",
        "Add some.",
        "No images in photos/.\nAdd some.",
    )
    assert str(errors.DataError("Alone.")) == "Alone."
