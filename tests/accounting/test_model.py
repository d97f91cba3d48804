from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest

from accounting import model
from accounting.errors import PlantError, UnknownNameError
from accounting.model import Plant

SITE = """
[site]
name = "works"
timezone = "Asia/Shanghai"
region = "河北"
[[line]]
name = "line1"
[[product]]
name = "iron"
unit = "t"
"""

PARENT = """
[[process]]
name = "shop"
line = "line1"
meter = [{ point = "aux/energy", carrier = "electricity" }]
output = [{ point = "scale/mass", product = "iron" }]
"""

CHILD = """
[[process]]
name = "furnace"
parent = "shop"
meter = [
    { point = "furnace/energy", carrier = "electricity" },
    { point = "coal/mass", carrier = "bituminous coal", share = 0.5 },
]
"""

GRANDCHILD = """
[[process]]
name = "fan"
parent = "furnace"
meter = [{ point = "fan/energy", carrier = "electricity" }]
"""

BALANCE = """
[[balance]]
name = "electricity"
main = ["incomer/energy"]
branches = ["aux/energy", "furnace/energy", "fan/energy"]
"""

GOOD = SITE + PARENT + CHILD + GRANDCHILD + BALANCE


def plant() -> Plant:
    return model.load(GOOD, "plant.toml")


def test_a_process_holds_the_meters_of_all_processes_below_it() -> None:
    assert [m.point for m in plant().meters_of("shop")] == ["aux/energy", "furnace/energy", "coal/mass", "fan/energy"]
    assert [m.point for m in plant().meters_of("furnace")] == ["furnace/energy", "coal/mass", "fan/energy"]
    assert [m.share for m in plant().meters_of("furnace")] == [1.0, 0.5, 1.0]
    assert plant().children_of("shop") == ("furnace",)


def test_a_process_makes_its_own_output_alone() -> None:
    assert [o.point for o in plant().outputs_of("shop")] == ["scale/mass"]
    assert plant().outputs_of("furnace") == ()


def test_a_point_names_every_process_and_balance_that_depends_on_it() -> None:
    assert plant().processes_of("fan/energy") == ("shop", "furnace", "fan")
    assert plant().processes_of("aux/energy") == ("shop",)
    assert plant().processes_of("scale/mass") == ("shop",)
    assert plant().processes_of("incomer/energy") == ()
    assert plant().balances_of("incomer/energy") == plant().balances_of("fan/energy") == ("electricity",)
    assert plant().balances_of("coal/mass") == ()


def test_points_are_all_that_accounts_and_balances_need() -> None:
    assert plant().points() == {
        "aux/energy", "furnace/energy", "fan/energy", "coal/mass", "scale/mass", "incomer/energy",
    }  # fmt: skip


def test_a_point_is_accounted_in_the_unit_of_its_carrier_or_product() -> None:
    units = {point: plant().unit_of(point) for point in plant().points()}
    assert units["aux/energy"] == units["incomer/energy"] == "kWh"
    assert units["coal/mass"] == units["scale/mass"] == "t"
    assert plant().unit_of("no/where") is None


@pytest.mark.parametrize("lookup", ["process", "balance", "product", "meters_of", "outputs_of"])
def test_an_unknown_name_lists_the_known_ones(lookup: str) -> None:
    with pytest.raises(UnknownNameError, match=r"'x' is unknown; known: \w+"):
        getattr(plant(), lookup)("x")


def test_a_meter_may_be_split_between_processes() -> None:
    split = """
[[process]]
name = "a"
meter = [{ point = "m/energy", carrier = "electricity", share = 0.4 }]
[[process]]
name = "b"
meter = [
    { point = "m/energy", carrier = "electricity", share = 0.6 },
    { point = "aux/energy", carrier = "electricity", share = -1 },
]
"""
    assert model.load(SITE + PARENT + split, "f").processes_of("aux/energy") == ("shop", "b")


def test_a_point_that_one_process_uses_may_be_what_another_makes() -> None:
    water = """
[[product]]
name = "water"
unit = "m3"
[[process]]
name = "pumps"
output = [{ point = "w/volume", product = "water" }]
[[process]]
name = "kiln"
meter = [{ point = "w/volume", carrier = "water" }]
"""
    assert model.load(SITE + water, "f").processes_of("w/volume") == ("pumps", "kiln")
    with pytest.raises(PlantError, match="'water' is in L, but the point is a meter of 'water' in m3 too"):
        model.load(SITE + water.replace("m3", "L"), "f")


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) >= 1, old
    return GOOD.replace(old, new, 1)


BAD = {
    "not TOML": ("[site", "f.toml: not TOML: "),
    "unknown key": (changed('line = "line1"', 'lines = "line1"'), "process 'shop'.lines: unknown key"),
    "unknown key of a meter": (
        changed('point = "fan/energy", carrier', 'point = "fan/energy", colour = 1, carrier'),
        "process 'fan'.meter 'fan/energy'.colour: unknown key",
    ),
    "no site": (PARENT, "site: Field required"),
    "no process": (SITE, "process: Field required"),
    "empty processes": ("process = []\n" + SITE, "process: there is none; allowed: at least one"),
    "time zone": (changed("Asia/Shanghai", "Asia/Shangri-La"), "site.timezone: time zone 'Asia/Shangri-La' is unknown"),
    "region": (changed("河北", "Atlantis"), "site.region: region 'Atlantis' is unknown; known: 中国 (China)"),
    "carrier": (
        changed("bituminous coal", "peat"),
        "process 'furnace'.meter 'coal/mass'.carrier: carrier 'peat' is unknown; known: LNG",
    ),
    "share out of range": (
        changed("share = 0.5", "share = 1.5"),
        "process 'furnace'.meter 'coal/mass'.share: Input should be less than or equal to 1 (found 1.5)",
    ),
    "share of nothing": (changed("share = 0.5", "share = 0"), "meter 'coal/mass': share 0 counts nothing"),
    "not a point": (changed("furnace/energy", "furnace"), "'furnace' is not a point; allowed: device/tag"),
    "not a name": (changed('name = "fan"', 'name = "fan/1"'), "'fan/1' is not a name; allowed: 1 to 64"),
    "policy": (
        GOOD + '[factors]\npolicy = "newest"\n',
        "factors.policy: Input should be 'exact' or 'latest-published'",
    ),
    "life-cycle grid": (GOOD + '[factors]\ngrid = "life-cycle"\n', "factors.grid: Input should be 'location'"),
    "unknown parent": (
        changed('parent = "shop"', 'parent = "ship"'),
        "process 'furnace'.parent: 'ship' is unknown; allowed: shop, furnace, fan",
    ),
    "unknown line": (
        changed('line = "line1"', 'line = "line2"'),
        "process 'shop'.line: 'line2' is unknown; allowed: line1",
    ),
    "unknown product": (
        changed('product = "iron"', 'product = "steel"'),
        "process 'shop'.output 'scale/mass'.product: 'steel' is unknown; allowed: iron",
    ),
    "cycle": (
        changed('name = "shop"', 'name = "shop"\nparent = "fan"'),
        "process 'shop'.parent: 'fan' closes a cycle (shop < fan < furnace < shop); allowed: a tree",
    ),
    "own parent": (
        changed('parent = "furnace"', 'parent = "fan"'),
        "process 'fan'.parent: 'fan' closes a cycle (fan < fan); allowed: a tree",
    ),
    "two processes of one name": (changed('name = "fan"', 'name = "shop"'), "process 'shop'.name: 2 entries have this"),
    "two lines of one name": (GOOD + '[[line]]\nname = "line1"\n', "line 'line1'.name: 2 entries have this name"),
    "two products of one name": (
        GOOD + '[[product]]\nname = "iron"\nunit = "t"\n',
        "product 'iron'.name: 2 entries have this name; allowed: one",
    ),
    "two balances of one name": (GOOD + BALANCE, "balance 'electricity'.name: 2 entries have this name; allowed: one"),
    "a meter in child and parent": (
        changed('point = "fan/energy"', 'point = "aux/energy"'),
        "process 'fan'.meter 'aux/energy'.share: in several places ('shop' 1, 'fan' 1), together counted 2 times",
    ),
    "a meter twice in one process": (
        changed("coal/mass", "furnace/energy"),
        "process 'furnace'.meter 'furnace/energy'.point: listed twice in this process; allowed: once",
    ),
    "a meter of two carriers": (
        changed('"fan/energy", carrier = "electricity"', '"furnace/energy", carrier = "water"'),
        "process 'fan'.meter 'furnace/energy'.carrier: 'water', but process 'furnace' takes it as 'electricity'",
    ),
    "a meter that is the process's own output": (
        changed("scale/mass", "aux/energy"),
        "process 'shop'.output 'aux/energy'.point: listed twice in this process",
    ),
    "an output of two products": (
        GOOD
        + '[[product]]\nname = "slag"\nunit = "t"\n'
        + '[[process]]\nname = "x"\noutput = [{ point = "scale/mass", product = "slag" }]\n',
        "process 'x'.output 'scale/mass'.product: 'slag', but process 'shop' counts it as 'iron'",
    ),
    "a point twice in a balance": (
        changed('"furnace/energy", "fan/energy"]', '"incomer/energy"]'),
        "balance 'electricity': 'incomer/energy' is named 2 times; allowed: once",
    ),
    "a balance of two carriers": (
        changed('["aux/energy", "furnace/energy"', '["aux/energy", "coal/mass"'),
        "balance 'electricity'.branches: 'coal/mass' measures 'bituminous coal'; allowed: points of 'electricity'",
    ),
    "an empty balance": (changed('main = ["incomer/energy"]', "main = []"), "balance 'electricity'.main: Tuple should"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD.keys())
def test_a_wrong_model_is_refused_with_file_place_and_value(text: str, message: str) -> None:
    with pytest.raises(PlantError, match=re.escape(message)) as caught:
        model.load(text, "f.toml")
    assert all(line.startswith("f.toml: ") for line in str(caught.value).splitlines())


def test_every_problem_is_told_at_once() -> None:
    text = changed('line = "line1"', 'line = "line2"').replace('parent = "shop"', 'parent = "ship"')
    with pytest.raises(PlantError) as caught:
        model.load(text, "f.toml")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    "text",
    [
        (Path(__file__).parents[2] / "deploy/plants/cement/plant.toml").read_text(encoding="utf-8"),
        (resources.files("accounting") / "sample.toml").read_text(encoding="utf-8"),
    ],
    ids=["cement", "sample"],
)
def test_shipped_models_are_right(text: str) -> None:
    assert model.load(text, "plant.toml").points()


def test_the_clinker_step_counts_what_it_consumes_itself() -> None:
    text = (Path(__file__).parents[2] / "deploy/plants/cement/plant.toml").read_text(encoding="utf-8")
    cement = model.load(text, "plant.toml")
    electricity = {m.point.split("/")[0] for m in cement.meters_of("clinker") if m.carrier == "electricity"}
    assert electricity == {"coal_mill_main", "kiln_main", "kiln_fans", "cooler_fans", "preheater_aux"}
    assert [o.point for o in cement.outputs_of("clinker")] == ["dcs/clinker_total"]
