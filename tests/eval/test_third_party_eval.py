"""Evaluations as users of LLaVA write them: pieces of its scripts in a loop of their own."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from tests.conftest import PARITY15

CHECKPOINT = str(PARITY15 / "checkpoint")
ANNOTATORS = ["stop"] * 3 + ["a stop sign"] * 7


def asked_of(llava15, *numbers):
    cases = [llava15.cases()[number] for number in numbers]
    return cases, [
        {"question_id": number, "image": f"image{case['images'][0]}.png", "text": case["question"]}
        for number, case in enumerate(cases)
    ]


def test_a_loop_of_their_own_over_the_data_loader(llava15):
    from llava.eval.model_vqa_loader import create_data_loader, get_chunk

    cases, questions = asked_of(llava15, 0)
    questions = get_chunk(questions, 1, 0)
    loader = create_data_loader(
        questions,
        str(PARITY15),
        llava15.tokenizer,
        llava15.image_processor,
        llava15.model.config,
        num_workers=0,
        conv_mode="vicuna_v1",
    )
    for (input_ids, image_tensor, image_sizes), case in zip(loader, cases):
        assert input_ids.shape[0] == 1 and image_tensor.shape == (1, 3, 336, 336)
        with torch.inference_mode():
            output_ids = llava15.model.generate(
                input_ids,
                images=image_tensor.to(dtype=torch.float32),
                image_sizes=image_sizes,
                do_sample=False,
                temperature=0,
                top_p=None,
                num_beams=1,
                max_new_tokens=16,
                use_cache=True,
            )
        assert llava15.tokenizer.batch_decode(output_ids, skip_special_tokens=True)[0].strip() == case["text"].strip()


def test_the_template_may_be_named_and_batches_are_refused(llava15):
    from llava.eval.model_vqa_loader import CustomDataset, create_data_loader

    _, questions = asked_of(llava15, 0)
    parts = (questions, str(PARITY15), llava15.tokenizer, llava15.image_processor, llava15.model.config)
    own, other = CustomDataset(*parts)[0][0], CustomDataset(*parts, conv_mode="llava_llama_2")[0][0]
    assert own.tolist() != other.tolist() and len(CustomDataset(*parts)) == 1
    with pytest.raises(ValueError, match="batch_size=2 must be 1"):
        create_data_loader(*parts, batch_size=2)


@pytest.mark.parametrize("name", ["model_vqa", "model_vqa_loader", "model_vqa_science", "model_vqa_mmbench"])
def test_lists_are_split_as_llava_does(name):
    import importlib

    module = importlib.import_module(f"llava.eval.{name}")
    assert module.split_list([1, 2, 3, 4, 5], 2) == [[1, 2, 3], [4, 5]]
    assert module.split_list([1, 2, 3, 4, 5], 4) == [[1, 2], [3, 4], [5]] and module.get_chunk([1, 2, 3], 2, 1) == [3]


@pytest.mark.parametrize("name", ["model_vqa", "model_vqa_loader"])
def test_eval_model_with_an_object_of_llavas_attributes(name, llava15, tmp_path):
    import importlib

    cases, questions = asked_of(llava15, 0)
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in questions))
    given = {"model_path": CHECKPOINT, "model_base": None, "image_folder": str(PARITY15), "question_file": str(file)}
    given |= {"answers_file": str(tmp_path / "out.jsonl"), "conv_mode": "vicuna_v1", "num_chunks": 1, "chunk_idx": 0}
    given |= {"temperature": 0, "top_p": None, "num_beams": 1, "max_new_tokens": 16, "device": "cpu"}
    importlib.import_module(f"llava.eval.{name}").eval_model(type("Args", (), given)())
    (line,) = [json.loads(text) for text in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert line["text"] == cases[0]["text"].strip()


def test_eval_model_of_scienceqa(llava15, tmp_path):
    from llava.eval.model_vqa_science import eval_model

    turns = [{"from": "human", "value": "<image>\nWhich? A. one B. two"}, {"from": "gpt", "value": "A"}]
    (tmp_path / "asked.json").write_text(json.dumps([{"id": "7", "image": "image0.png", "conversations": turns}]))
    given = {"model_path": CHECKPOINT, "question_file": str(tmp_path / "asked.json"), "image_folder": str(PARITY15)}
    given |= {"answers_file": str(tmp_path / "out.jsonl"), "conv_mode": "vicuna_v1", "temperature": 0}
    given |= {"single_pred_prompt": True, "max_new_tokens": 2, "device": "cpu"}
    eval_model(type("Args", (), given)())
    line = json.loads((tmp_path / "out.jsonl").read_text())
    assert line["question_id"] == "7" and "option's letter" in line["prompt"]


def test_textvqas_answers():
    from llava.eval.eval_textvqa import prompt_processor
    from llava.eval.m4c_evaluator import EvalAIAnswerProcessor, TextVQAAccuracyEvaluator

    processor, evaluator = EvalAIAnswerProcessor(), TextVQAAccuracyEvaluator()
    assert processor("The two T-shirts.") == "2 t shirts" == evaluator.answer_processor("2 t-shirts")
    prompts = ["What is it?\nReference OCR token: A\nAnswer the question using a single word or phrase."]
    assert prompt_processor(prompts[0]) == "what is it?"
    pred_list = [{"pred_answer": "Stop", "gt_answers": ANNOTATORS}, {"pred_answer": "go", "gt_answers": ANNOTATORS}]
    # "stop" by three of ten: leaving one of the three out 2/3, else 1, so (3 * 2/3 + 7) / 10 = 0.9
    assert evaluator.eval_pred_list(pred_list) == pytest.approx(0.45)
    with pytest.raises(ValueError, match=r"pred_list\[0\]: answers must be those of 10 people"):
        evaluator.eval_pred_list([{"pred_answer": "a", "gt_answers": ["a"]}])
    with pytest.raises(ValueError, match="pred_list is empty"):
        evaluator.eval_pred_list([])


def test_popes_function(tmp_path, capsys):
    from llava.eval.eval_pope import eval_pope

    labels = tmp_path / "coco_pope_random.json"
    labels.write_text("".join(json.dumps({"label": label}) + "\n" for label in ("yes", "yes", "no", "no")))
    answers = [{"text": text} for text in ("Yes", "No, it is not.", "no", "Yes.")]
    eval_pope(answers, str(labels))
    assert capsys.readouterr().out.splitlines() == [
        "TP\tFP\tTN\tFN\t",
        "1\t1\t1\t1",
        "Accuracy: 0.5",
        "Precision: 0.5",
        "Recall: 0.5",
        "F1 score: 0.5",
        "Yes ratio: 0.5",
        "0.500, 0.500, 0.500, 0.500, 0.500",
    ]
    with pytest.raises(ValueError, match="3 answers, but .* has 4 labels"):
        eval_pope(answers[:3], labels)


def test_scienceqas_letters(monkeypatch):
    from llava.eval.eval_science_qa import get_args, get_pred_idx

    assert [get_pred_idx(letter, ["one", "two"], list("ABCDE")) for letter in "ABC"] == [0, 1, -1]
    monkeypatch.setattr(sys, "argv", ["eval", "--base-dir", "a", "--result-file", "b"])
    assert get_args().split == "test"
