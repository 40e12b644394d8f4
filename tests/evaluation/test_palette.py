from mlproject.evaluation.palette import legends, mask_colours, variant_colours

ONE, TWO = legends(["with CRF"]), legends(["A", "B"])


def names(legend):
    return {region["bits"]: region["name"] for region in legend}


def test_what_is_found_missed_or_false_is_said_where_all_masks_are_shown():
    assert names(ONE[3]) == {3: "found: in both", 1: "missed: reference alone", 2: "false: with CRF alone"}
    assert names(TWO[7]) == {
        7: "found by both",
        3: "found by A alone",
        5: "found by B alone",
        1: "missed by both",
        2: "false: A alone",
        4: "false: B alone",
        6: "false: both",
    }


def test_while_a_mask_is_hidden_the_legend_names_the_masks_alone():
    assert [names(legend) for legend in ONE[:3]] == [{}, {1: "reference"}, {2: "with CRF"}]
    assert [names(legend) for legend in TWO[:7]] == [
        {},
        {1: "reference"},
        {2: "A"},
        {3: "reference and A", 1: "reference, not A", 2: "A, not reference"},
        {4: "B"},
        {5: "reference and B", 1: "reference, not B", 4: "B, not reference"},
        {6: "A and B", 2: "A, not B", 4: "B, not A"},
    ]


def test_a_colour_means_the_same_masks_in_every_legend():
    for found in (ONE, TWO):
        colours = {region["bits"]: region["colour"] for region in found[-1]}
        assert len(set(colours.values())) == len(colours) == len(found) - 1
        assert all(region["colour"] == colours[region["bits"]] for legend in found for region in legend)
    assert [ONE[1][0]["colour"], ONE[2][0]["colour"]] == mask_colours(1)
    assert [TWO[1 << n][0]["colour"] for n in range(3)] == mask_colours(2)


def test_a_variant_has_the_colour_of_its_outline_in_the_figures_and_no_other_has_it():
    assert list(variant_colours(["A", "B"], ["A", "B"]).values()) == mask_colours(2)[1:]
    colours = variant_colours(["network", "best threshold", "with CRF"], ["best threshold"])
    assert colours["best threshold"] == mask_colours(1)[1] and len(set(colours.values())) == 3
