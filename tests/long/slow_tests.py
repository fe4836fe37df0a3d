"""Which tests are slow: functions whose cases together take more than some seconds; into tests/slow.txt.

    scripts/test.sh --junitxml=times.xml && python -m tests.long.slow_tests times.xml

`tests/conftest.py` marks them as slow, and `scripts/test.sh --fast` leaves them out.
"""

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

SECONDS = 0.5
LIST = Path(__file__).parents[1] / "slow.txt"


def slow(report: Path) -> list[str]:
    """Names such as tests/jobs/test_resume.py::test_a_run, of a report in JUnit's format."""
    seconds: Counter[str] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        if place := case.get("classname"):
            file = place.replace(".", "/") + ".py"
            seconds[f"{file}::{case.get('name').partition('[')[0]}"] += float(case.get("time"))
    return sorted(name for name, total in seconds.items() if total > SECONDS)


if __name__ == "__main__":
    LIST.write_text("".join(f"{name}\n" for name in slow(Path(sys.argv[1]))))
