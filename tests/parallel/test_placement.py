"""Which device each model of a process gets, as far as this can be told without devices."""

import pytest
import torch

from rockstudy.config.overrides import from_parameters
from rockstudy.errors import StudyError
from rockstudy.models import loading
from rockstudy.parallel import placement


def test_the_first_half_of_a_nodes_devices_trains_and_the_second_holds_its_teachers():
    assert [placement.next_device(4, r, 8).index for r in range(4)] == [4, 5, 6, 7]
    assert str(placement.next_device(1, 0, 2)) == "cuda:1"
    with pytest.raises(StudyError, match=r"^teacher_device: next must .*; got 8 for 5$"):
        placement.next_device(5, 0, 8)


def test_by_default_both_models_lie_together_and_under_fsdp_on_the_cpu(monkeypatch):
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(placement, "default_device", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    assert placement.places("same") == (cuda, cuda)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert placement.places("same") == (cpu, cpu)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert placement.places("next") == (cpu, torch.device("cuda:7"))  # a teacher that stays whole


def test_the_teachers_of_all_trainings_of_a_process_are_sharded_over_one_mesh(monkeypatch):
    made = []
    monkeypatch.setattr(
        placement, "init_device_mesh", lambda *a, **_: made.append(a) or {"process": object()}
    )
    placement._of_node.cache_clear()
    assert placement._of_node("cuda", 2, 8) is placement._of_node("cuda", 2, 8)
    placement._of_node.cache_clear()
    assert made == [("cuda", (2, 8))]


def test_what_is_loaded_on_the_cpu_to_be_sharded_has_the_type_of_the_devices(monkeypatch):
    pair = from_parameters("tiny").pair
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setattr(loading, "default_device", lambda: torch.device("cuda"))
    loaded = loading.load_pair(pair)
    assert loaded.teacher.device.type == loaded.student.device.type == "cpu"
    assert loaded.teacher.dtype == loaded.student.dtype == torch.bfloat16


@pytest.mark.skipif(torch.cuda.device_count() > 1, reason="there are devices enough")
def test_a_teacher_on_a_device_that_is_not_there_is_refused_before_anything_is_loaded():
    pair = from_parameters("tiny", pair__teacher_device="next").pair
    with pytest.raises(StudyError, match="teacher_device: next must have 2 CUDA devices"):
        loading.load_pair(pair)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_teacher_on_the_next_device_trains_the_same_student(tmp_path):
    from rockstudy.runs import Run
    from rockstudy.training import stages

    runs = [
        stages.train(
            Run(from_parameters("tiny", pair__teacher_device=where), tmp_path / where),
            "stage2",
            seed=0,
        )
        for where in ("same", "next")
    ]
    assert runs[0].metrics.loss.tolist() == pytest.approx(runs[1].metrics.loss.tolist(), rel=1e-3)
