"""The surface of torch.ao.pruning's BaseSparsifier and BaseStructuredSparsifier, as they document it, on LSTMs."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruner import LSTMSaliencyPruner, PrunerError
from pruner.in_memory.row_mask import RowMask
from pruner.in_memory.row_sparsifier import RowSparsifier
from tests.helpers.training import H, Opaque, batch, seeded, stepped

IH, HH = "lstm.weight_ih_l0", "lstm.weight_hh_l0"


def prepared(model: nn.Module, config: Any = None, defaults: Any = None, **settings: Any) -> LSTMSaliencyPruner:
    pruner = LSTMSaliencyPruner(defaults, **settings)
    pruner.prepare(model, config)
    return pruner


def names(pruner: LSTMSaliencyPruner) -> list[str]:
    return [group["tensor_fqn"] for group in pruner.groups]


def test_a_new_pruner_is_enabled_and_empty() -> None:
    pruner = LSTMSaliencyPruner({"sparsity_level": 0.25})
    assert pruner.enable_mask_update is True
    assert (pruner.groups, pruner.config, pruner.model, dict(pruner.state)) == ([], None, None, {})
    assert pruner.defaults == {"sparsity_level": 0.25}


def test_the_base_class_is_abstract() -> None:
    with pytest.raises(TypeError, match=r"RowSparsifier.*update_mask"):
        RowSparsifier()  # type: ignore[abstract]


CONFIGS: dict[str, tuple[Any, list[str]]] = {
    "tensor_fqn": (lambda model: [{"tensor_fqn": HH}], [HH]),
    "module and tensor_name": (lambda model: [{"module": model.lstm, "tensor_name": "weight_hh_l0"}], [HH]),
    "module_fqn and tensor_name": (lambda model: [{"module_fqn": "lstm", "tensor_name": "weight_hh_l0"}], [HH]),
    "all that agree": (lambda model: [{"module": model.lstm, "module_fqn": "lstm", "tensor_fqn": HH}], [HH]),
    "module": (lambda model: [{"module": model.lstm}], [IH, HH]),
    "none": (lambda model: None, [IH, HH]),
}


@pytest.mark.parametrize(("config", "wanted"), CONFIGS.values(), ids=CONFIGS)
def test_what_a_config_may_say(config: Any, wanted: list[str]) -> None:
    model = seeded()
    pruner = prepared(model, config(model))
    assert names(pruner) == wanted
    for group in pruner.groups:
        assert group["module"] is model.lstm and group["module_fqn"] == "lstm"
        assert group["tensor_name"] == group["tensor_fqn"].removeprefix("lstm.")
        assert group["parametrization"] is RowMask
        assert parametrize.is_parametrized(model.lstm, group["tensor_name"])
        assert pruner.state[group["tensor_fqn"]]["mask"] is model.lstm.parametrizations[group["tensor_name"]][0].mask


UNUSABLE: dict[str, tuple[Any, str]] = {
    "contradiction": (lambda model: [{"module": model.head, "tensor_fqn": HH}], "tensor_fqn and module to agree"),
    "another name": (lambda model: [{"tensor_name": "weight_ih_l0", "tensor_fqn": HH}], "tensor_name to agree"),
    "not in it": (lambda model: [{"module": nn.LSTM(3, 4)}], "a module of the model, found LSTM that is not in it"),
    "module without": (lambda model: [{"module": model.head}], "packed LSTM weight .* found 'head.weight'"),
    "mask of a size": (lambda model: [{"tensor_fqn": HH, "mask": torch.ones(3, dtype=torch.bool)}], "mask of 32 bool"),
    "mistyped": (lambda model: [{"tensor_fqn": HH, "sparsitylevel": 0.1}], "expected sparsity_level in the entries"),
}


@pytest.mark.parametrize(("config", "message"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_a_config_may_not_say(config: Any, message: str) -> None:
    model = seeded()
    with pytest.raises(PrunerError, match=message):
        prepared(model, config(model))
    assert not parametrize.is_parametrized(model.lstm)


def test_make_config_from_model_names_every_packed_weight() -> None:
    model = nn.ModuleDict({"lstm": nn.LSTM(3, 4), "cell": nn.LSTMCell(3, 4), "head": nn.Linear(4, 2)})
    pruner = LSTMSaliencyPruner()
    pruner.make_config_from_model(model)
    assert [entry["tensor_fqn"] for entry in pruner.config or ()] == [IH, HH, "cell.weight_ih", "cell.weight_hh"]
    pruner.make_config_from_model(model, {nn.LSTMCell})
    assert [entry["tensor_fqn"] for entry in pruner.config or ()] == ["cell.weight_ih", "cell.weight_hh"]


def test_defaults_and_keys_of_entries_reach_update_mask() -> None:
    seen = {}

    class Own(LSTMSaliencyPruner):
        def update_mask(self, module: nn.Module, tensor_name: str, **kwargs: Any) -> None:
            seen[tensor_name] = {**kwargs, "module": module}
            self.state[kwargs["tensor_fqn"]]["step_count"] = self.state[kwargs["tensor_fqn"]].get("step_count", 0) + 1
            module.parametrizations[tensor_name][0].mask[1] = False

    model = seeded()
    pruner = Own({"test": 3, "other": 1})
    pruner.prepare(model, [{"tensor_fqn": IH, "test": 42}, {"tensor_fqn": HH, "sparsity_level": 0.1}])
    for _ in range(2):
        pruner.step()
    assert (seen["weight_ih_l0"]["test"], seen["weight_hh_l0"]["test"]) == (42, 3)
    assert seen["weight_hh_l0"]["sparsity_level"] == 0.1 and seen["weight_ih_l0"]["module"] is model.lstm
    assert (~pruner.masks()[IH]).nonzero().tolist() == [[1]]
    assert pruner.state_dict()["state"][IH]["step_count"] == 2


def test_a_subclass_in_units_masks_whole_units_or_is_told() -> None:
    class Own(LSTMSaliencyPruner):
        def update_mask(self, module: nn.Module, tensor_name: str, **kwargs: Any) -> None:
            mask = module.parametrizations[tensor_name][0].mask.view(4, -1)
            mask[kwargs["gates"], 1] = False

    whole, torn = Own({"gates": [0, 1, 2, 3]}, "units"), Own({"gates": [0]}, "units")
    model = seeded()
    whole.prepare(model)
    whole.step()
    assert all((~mask).nonzero().flatten().tolist() == [1, 9, 17, 25] for mask in whole.masks().values())
    assert len(whole.masks()) == 4
    torn.prepare(seeded())
    with pytest.raises(PrunerError, match=r"expected a mask of whole units on 'lstm\.weight_ih_l0'"):
        torn.step()


def test_a_mask_and_a_parametrization_of_ones_own() -> None:
    class Scaled(RowMask):
        def forward(self, weight: Tensor) -> Tensor:
            return 2 * super().forward(weight)

    model = seeded()
    before = model.lstm.weight_hh_l0.clone()
    first = torch.arange(4 * H) % 2 == 0
    prepared(model, [{"tensor_fqn": HH, "mask": first, "parametrization": Scaled}])
    assert isinstance(model.lstm.parametrizations.weight_hh_l0[0], Scaled)
    assert torch.equal(model.lstm.weight_hh_l0, torch.where(first[:, None], 2 * before, 0.0))


def test_step_takes_use_path_and_does_nothing_while_disabled() -> None:
    pruner = prepared(seeded())
    pruner.enable_mask_update = False
    pruner.step(use_path=False)
    assert all(mask.all() for mask in pruner.masks().values())
    pruner.enable_mask_update = True
    pruner.step(use_path=True)
    assert not any(mask.all() for mask in pruner.masks().values())


def test_squash_mask_keeps_parameters_that_are_asked_for() -> None:
    model = nn.ModuleDict({"one": nn.LSTM(3, 4), "two": nn.LSTM(3, 4), "three": nn.LSTM(3, 4)})
    pruner = prepared(model, defaults={"foo": 3, "bar": 2, "baz": 1})
    pruner.squash_mask(params_to_keep=("foo", "bar"), params_to_keep_per_layer={"two": ("baz",)})
    assert model["one"].sparse_params == {"foo": 3, "bar": 2}
    assert model["two"].sparse_params == {"foo": 3, "bar": 2, "baz": 1}
    pruner.prepare(model, [{"tensor_fqn": "three.weight_hh_l0"}])
    pruner.squash_mask(params_to_keep_per_layer={"three": ("sparsity_level",)})
    assert model["three"].sparse_params == {"sparsity_level": 0.5}
    plain = seeded()
    prepared(plain).squash_mask()
    assert not hasattr(plain.lstm, "sparse_params")


def test_keys_that_no_group_has_are_told_before_anything_changes() -> None:
    pruner = stepped(seeded(), "rows")
    with pytest.raises(PrunerError, match=r"expected keys to keep among .*, found 'foo'"):
        pruner.squash_mask(params_to_keep=("foo",))
    assert pruner.masks()


def test_a_second_model_after_squash_mask() -> None:
    pruner, first, second = LSTMSaliencyPruner(), seeded(), seeded(seed=1)
    for model in (first, second):
        pruner.prepare(model, [{"tensor_fqn": HH}])
        pruner.step()
        pruner.squash_mask()
        assert int((model.lstm.weight_hh_l0.abs().sum(1) == 0).sum()) == 2 * H
    assert pruner.groups == [] and pruner.model is None


def test_state_dict_loads_into_another_pruner() -> None:
    model, other = seeded(), seeded(seed=1)
    source = prepared(model, [{"tensor_fqn": HH, "test": 3, "sparsity_level": 0.75}])
    source.step()
    saved = source.state_dict()
    assert set(saved["groups"][0]) == {"tensor_fqn", "test", "sparsity_level"}
    receiver = prepared(other)
    receiver.step()
    weight = other.lstm.parametrizations.weight_ih_l0.original.clone()
    receiver.load_state_dict(copy.deepcopy(saved))
    assert names(receiver) == [HH] and receiver.groups[0]["module"] is other.lstm
    assert torch.equal(receiver.masks()[HH], source.masks()[HH])
    assert not parametrize.is_parametrized(other.lstm, "weight_ih_l0") and torch.equal(other.lstm.weight_ih_l0, weight)
    assert torch.equal(saved["state"][HH]["mask"], source.state[HH]["mask"])  # what was given is as it was


def test_a_state_dict_of_another_model_is_refused_unless_it_need_not_fit() -> None:
    saved = stepped(seeded(layers=2), "rows").state_dict()
    receiver = prepared(seeded())
    with pytest.raises(PrunerError, match=r"found 'lstm\.weight_ih_l1'"):
        receiver.load_state_dict(saved)
    assert names(receiver) == [IH, HH]
    receiver.load_state_dict(saved, strict=False)
    assert names(receiver) == [IH, HH] and not receiver.masks()[IH].all()


def test_a_schedule_is_part_of_the_state_dict() -> None:
    pruner = prepared(seeded(), defaults={"sparsity_level": 0.8})
    pruner.schedule("cubic", steps=4)
    pruner.step()
    again = prepared(seeded())
    again.load_state_dict(pruner.state_dict())
    for _ in range(3):
        for each in (pruner, again):
            each.step()
        assert again.groups[0]["sparsity_level"] == pruner.groups[0]["sparsity_level"]
    assert again.groups[0]["sparsity_level"] == pytest.approx(0.8)


def test_an_unusable_schedule_in_a_state_dict_is_told() -> None:
    pruner = prepared(seeded())
    with pytest.raises(PrunerError, match="expected a schedule as state_dict"):
        pruner.load_state_dict({**pruner.state_dict(), "schedule": {"form": "cubic"}})


class Dense(nn.Module):
    """What a mapping may turn an LSTM into."""

    @classmethod
    def from_dense(cls, module: nn.LSTM) -> "Dense":
        made = cls()
        made.weight = nn.Parameter(module.weight_hh_l0.detach().clone())
        return made


def test_convert_replaces_what_is_masked() -> None:
    model = nn.ModuleDict({"masked": nn.LSTM(3, 4), "plain": nn.LSTM(3, 4), "within": nn.ModuleList([nn.LSTM(3, 4)])})
    pruner = prepared(model, [{"module": model["masked"]}, {"module": model["within"][0]}])
    pruner.step()
    new = pruner.convert(model, {nn.LSTM: Dense})
    assert [type(each) for each in (new["masked"], new["plain"], new["within"][0])] == [Dense, nn.LSTM, Dense]
    assert torch.equal(new["masked"].weight, model["masked"].weight_hh_l0)
    assert parametrize.is_parametrized(model["masked"])
    assert pruner.convert(model, {nn.LSTM: Dense}, inplace=True) is model and isinstance(model["masked"], Dense)
    with pytest.raises(PrunerError, match="expected a mapping of module classes"):
        pruner.convert(model)


def test_a_repr_tells_sparsities() -> None:
    pruner = stepped(seeded(), "rows", 0.25)
    assert repr(pruner).splitlines() == [
        "LSTMSaliencyPruner (rows)",
        "    lstm.weight_ih_l0: sparsity_level 0.25, 8 of 32 rows masked",
        "    lstm.weight_hh_l0: sparsity_level 0.25, 8 of 32 rows masked",
    ]


def test_a_pruner_is_copied_with_its_model_and_pickled_without() -> None:
    model = seeded()
    pruner = stepped(model)
    twin_model, twin = copy.deepcopy((model, pruner))
    twin.groups[0]["sparsity_level"] = 0.75
    twin.step()
    assert twin.model is twin_model and int(twin.masks()[IH].sum()) == H and int(pruner.masks()[IH].sum()) == 2 * H
    pruner.squash_mask()
    assert pickle.loads(pickle.dumps(pruner)).defaults == pruner.defaults


def test_prune_returns_the_model_of_smaller_modules() -> None:
    for granularity in ("rows", "units"):
        model = seeded(Opaque)
        pruner = stepped(model, granularity)
        wanted, parameters = model(batch()[0]), sum(each.numel() for each in model.parameters())
        assert pruner.prune() is model
        torch.testing.assert_close(model(batch()[0]), wanted)
        assert sum(each.numel() for each in model.parameters()) < parameters
        assert not any(parametrize.is_parametrized(module) for module in model.modules())
