"""Profiles: read, written, applied; and what does not fit is said in one sentence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.files import find_crew, parse_crew, shipped_crews
from stepwell.agents.crews.profile import FALLBACK_FLASH, Profile, apply, dump, find_profile, load_profile
from stepwell.agents.penalty import Penalty
from stepwell.agents.planner import with_writer
from stepwell.errors import BadInput

CREW = """
[crew]
name = "pair"
entry = "planner"
[roles.planner]
[roles.solver]
[roles.critic]
[profiles.short]
drop = ["critic"]
[profiles.short.roles.solver]
max_tokens = 20
samples = 3
"""


def made(text: str = CREW) -> Crew:
    return parse_crew(text)


@pytest.mark.parametrize("name", shipped_crews())
def test_what_ships_has_both(name: str) -> None:
    crew = find_crew(name)
    assert apply(crew, find_profile(crew, "pro")) == crew
    flash = with_writer(apply(crew, find_profile(crew, "flash")))
    assert flash.penalty is not None
    assert "planner" in flash.dropped


def test_a_crews_own_profile_changes_what_it_says_and_no_more() -> None:
    crew = made()
    got = apply(crew, find_profile(crew, "short"))
    assert got.dropped == ("critic",)
    assert (got.roles["solver"].max_tokens, got.roles["solver"].samples) == (20, 3)
    assert got.roles["solver"].instructions == crew.roles["solver"].instructions
    assert got.roles["critic"] == crew.roles["critic"]
    assert set(with_writer(got).roles) == {"planner", "solver", "writer"}


def test_a_flash_nobody_fitted_spares_what_a_crew_can_do_without() -> None:
    crew = made()
    assert find_profile(crew, "flash") is FALLBACK_FLASH
    got = with_writer(apply(crew, FALLBACK_FLASH))
    assert got.roles["planner"].may_spawn == ("solver",)
    alone = made('[crew]\nname = "one"\n[roles.judge]\n')
    assert apply(alone, FALLBACK_FLASH).dropped == ("planner", "critic")


def test_one_model_for_all() -> None:
    got = apply(made(), Profile("p", model="small"))
    assert {role.model for role in got.roles.values()} == {"small"}


def test_a_role_that_is_given_a_model_is_on_that_one() -> None:
    profile = Profile("p", model="large", roles={"solver": {"model": "small"}})
    on = {name: role.model for name, role in apply(made(), profile).roles.items()}
    assert on == {"planner": "large", "solver": "small", "critic": "large", "writer": "large"}


@given(
    st.builds(
        Profile,
        name=st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20),
        crew=st.sampled_from(["", "pair"]),
        drop=st.lists(st.sampled_from(["critic", "planner"]), unique=True).map(tuple),
        model=st.sampled_from(["", "gemma3"]),
        wave=st.integers(0, 9),
        penalty=st.none()
        | st.builds(
            Penalty,
            token_price_microusd=st.integers(0, 10**12),
            answer_value_microusd=st.integers(0, 10**12),
            eos_bias=st.sampled_from([0.0, 0.25, 7.5]),
            eos_bias_tokens=st.integers(0, 10**6),
        ),
        roles=st.dictionaries(
            st.just("solver"),
            st.fixed_dictionaries(
                {
                    "samples": st.integers(1, 9),
                    "temperature": st.sampled_from([0.0, 0.5]),
                    "check": st.just(""),
                }
            ),
        ),
    )
)
def test_what_is_written_is_read_again(tmp_path_factory: pytest.TempPathFactory, profile: Profile) -> None:
    path = tmp_path_factory.mktemp("profile") / "p.toml"
    path.write_text(dump(profile), "utf-8")
    assert load_profile(path) == profile
    assert apply(made(), load_profile(path)) == apply(made(), profile)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[profile]\ndrop = ['critik']\n", "did you mean 'critic'?"),
        ("[profile]\ncrew = 'other'\n", "is for the crew other, not pair"),
        ("[profile]\ndorp = ['critic']\n", "did you mean 'drop'?"),
        ("[profile]\nwave = -1\n", "wave is a whole number"),
        ("[profile.roles.solver]\nsamples = 0\n", "samples is 1 to 64"),
        ("[profile.roles.solver]\noutput = 'json'\n", "'output' is not known"),
        ("[profile.penalty]\ntoken_price_usd_per_million = 2\n", "answer_value_usd is missing"),
        ("[profile.penalty]\ntoken_price_usd_per_million = -2\nanswer_value_usd = 1\n", "from 0 to"),
        (
            "[profile.penalty]\ntoken_price_usd_per_million = 2\nanswer_value_usd = 1\neos_bias = 200\n",
            "from 0 to 100",
        ),
        ("[profile\n", "is not TOML"),
    ],
)
def test_what_does_not_fit_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    crew = made()
    with pytest.raises(BadInput) as error:
        apply(crew, find_profile(crew, str(path)))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(BadInput, match="did you mean 'flash'"):
        find_profile(made(), "flsh")


def test_who_is_asked_can_only_be_spared_if_it_plans() -> None:
    crew = made('[crew]\nname = "one"\n[roles.solver]\n[roles.critic]\n')
    with pytest.raises(BadInput, match="only a planner can be spared"):
        apply(crew, Profile("p", drop=("solver",)))


def test_somebody_must_be_left() -> None:
    crew = made()
    with pytest.raises(BadInput, match="no role is left"):
        with_writer(replace(crew, dropped=("solver", "critic", "writer")))


BRIEFED = Path(__file__).resolve().parents[2] / "examples" / "briefed"


@pytest.mark.parametrize("file", sorted(BRIEFED.glob("*-untold.toml")), ids=lambda file: file.stem)
def test_the_profiles_of_docs_profiles_leave_the_lists_out(file: Path) -> None:
    profile = load_profile(file)
    crew = find_crew(profile.crew)
    untold = [name for name, role in apply(crew, profile).roles.items() if not role.briefed]
    assert untold
    assert all(crew.roles[name].briefed for name in untold)


def test_the_crew_of_docs_profiles_has_both_profiles() -> None:
    crew = find_crew(str(BRIEFED / "sums-by-tool.toml"))
    told = [apply(crew, find_profile(crew, name)).roles["solver"].briefed for name in ("told", "untold")]
    assert told == [True, False]
