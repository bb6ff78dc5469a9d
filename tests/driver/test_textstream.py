"""Text that is certain: whole characters, never past a stop string, nothing lost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwell.engines.null import _ByteDetokenizer
from stepwell.loop.textstream import TextStream

words = st.text(alphabet="abé😀", max_size=30)
stops = st.lists(st.text(alphabet="abé😀", min_size=1, max_size=4), max_size=3)


@given(words, stops)
def test_the_stream_is_the_text_up_to_the_first_stop(text: str, stop: list[str]) -> None:
    stream = TextStream(_ByteDetokenizer(), stop)
    got, stopped = "", None
    for byte in text.encode():
        piece = stream.add(byte)
        got += piece.text
        stopped = stopped or piece.stopped_by
        if stopped:
            break
    else:
        piece = stream.finish()
        got += piece.text
        stopped = piece.stopped_by
    ends = [text.find(s) + len(s) for s in stop if s in text]
    if not ends:
        assert (got, stopped) == (text, None)
    else:  # it stops with the first stop string that is complete
        assert stopped in stop
        assert text[: min(ends)].endswith(stopped)
        assert text.startswith(got + stopped)
        assert not any(s in got for s in stop)


def test_what_may_become_a_stop_string_is_held_back() -> None:
    stream = TextStream(_ByteDetokenizer(), ["END"])
    assert [stream.add(b).text for b in b"xENxEN"] == ["x", "", "", "ENx", "", ""]
    assert stream.finish().text == "EN"
