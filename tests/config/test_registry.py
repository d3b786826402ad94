"""Registries: legal names, guesses, families, help texts, one definition a name."""

import subprocess
import sys

import pytest

from rockstudy.config.overrides import from_parameters
from rockstudy.config.registry import ARMS, ENCODERS, REGISTRIES, SCORES, SELECTORS, TASKS, Registry
from rockstudy.errors import StudyError


def small() -> Registry:
    """A registry of two names and a family; this module is its home."""
    made = Registry("fruit", __name__)

    @made.register("apple")
    def apple():
        """Red or green.

        More.
        """
        return "apple"

    @made.register("pear")
    def pear():
        return "pear"

    def whole(text):
        if not text.isdecimal():
            raise StudyError(f"number: must be a whole number; got {text!r}")
        return int(text)

    @made.register("basket-<number>", parse=whole)
    def basket(what, number):
        """A number of things."""
        return what, number

    return made


def test_names_come_in_the_order_of_their_registration_and_stand_for_their_functions():
    fruit = small()
    assert list(fruit) == ["apple", "pear"] and len(fruit) == 2
    assert fruit["apple"]() == "apple" and dict(fruit)["pear"]() == "pear"
    assert [entry.name for entry in fruit.entries()] == ["apple", "pear", "basket-<number>"]
    assert [entry.functions[0].__name__ for entry in fruit.entries()] == ["apple", "pear", "basket"]


def test_a_member_of_a_family_hands_its_parsed_argument_over():
    fruit = small()
    assert fruit["basket-12"]("plums") == ("plums", 12)
    assert "basket-12" in fruit and "basket-x" not in fruit and "basket-<number>" not in fruit
    fruit.add("basket-x", test_a_member_of_a_family_hands_its_parsed_argument_over)
    assert "basket-x" in fruit  # a plain name goes before the family


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("aple", "apple, pear, basket-<number>; got 'aple' (did you mean 'apple'?)"),
        ("basket-x", "basket-<number>; got 'basket-x' (number: must be a whole number; got 'x')"),
        (3, "fruit: must be one of apple, pear, basket-<number>; got 3"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_legal_ones_and_a_hint(name, line):
    with pytest.raises(StudyError) as error:
        small()[name]
    assert str(error.value).startswith("fruit: must be one of apple") and "\n" not in str(error)
    assert str(error.value).endswith(line)


def test_a_help_text_is_the_first_line_of_the_docstring():
    assert {entry.name: entry.help for entry in small().entries()} == {
        "apple": "Red or green.", "pear": "", "basket-<number>": "A number of things."
    }  # fmt: skip


def test_a_name_has_one_definition_and_its_module_may_be_reloaded():
    fruit, again = small(), small()
    fruit.add("apple", again["apple"])  # the same place in the same module
    with pytest.raises(StudyError, match=r"fruit 'apple': must have one .*small.*apple.*pear"):
        fruit.add("apple", again["pear"])


def test_every_built_in_name_has_a_help_text_and_a_function_of_its_room():
    for registry in REGISTRIES:
        for entry in registry.entries():
            assert entry.help and entry.place.startswith("rockstudy."), entry.name
            assert all(callable(function) for function in entry.functions)


@pytest.mark.parametrize(
    ("field", "registry"),
    [
        ("train_task__name", TASKS),
        ("rocks__selector", SCORES),
        ("rocks__encoder", ENCODERS),
        ("freeze__extra", ARMS),
    ],
)
def test_a_field_that_takes_a_name_prints_its_registry(field, registry):
    given = ["nothing"] if field == "freeze__extra" else "nothing"
    with pytest.raises(StudyError) as error:
        from_parameters("tiny", **{field: given})
    names = ", ".join(entry.name for entry in registry.entries())
    assert str(error.value).startswith(f"{field}")
    assert f"must be one of {names}; got 'nothing'" in str(error.value)


def test_the_name_of_an_arm_that_misspells_a_selector_lists_the_selectors():
    with pytest.raises(StudyError, match=r"freeze__extra__0: .*selector: must be one of forking, "):
        from_parameters("tiny", freeze__extra=["freeze-tipp"])
    assert "freeze-tip" in ARMS and "tip" in SELECTORS


def test_names_are_checked_without_the_libraries_that_train():
    code = (
        "import sys; from rockstudy.config.overrides import from_parameters as f\n"
        "f('tiny', freeze__extra=['freeze-tip', 'lambda-0.5'], rocks__encoder='hidden')\n"
        "assert not {'torch', 'transformers', 'trl'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
