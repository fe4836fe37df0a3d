"""The fast tier: its list names tests that are there."""

from collections import Counter

from ..conftest import ROOT
from ..long.slow_tests import slow

REPORT = """<testsuites><testsuite>
<testcase classname="tests.data.test_a" name="test_one[x]" time="0.3"/>
<testcase classname="tests.data.test_a" name="test_one[y]" time="0.4"/>
<testcase classname="tests.data.test_a" name="test_two" time="0.4"/>
<testcase classname="" name="a note of the runner" time="9.0"/>
</testsuite></testsuites>"""


def test_a_function_is_slow_by_all_its_cases_together(tmp_path):
    (tmp_path / "times.xml").write_text(REPORT)
    assert slow(tmp_path / "times.xml") == ["tests/data/test_a.py::test_one"]


def test_every_slow_test_that_is_listed_is_there():
    names = (ROOT / "tests" / "slow.txt").read_text().split()
    assert [name for name, count in Counter(names).items() if count > 1] == []
    for name in names:
        file, _, function = name.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(), name
