"""SmolLM2-135M-Instruct, a real model: what random weights cannot show."""

import pytest

from mlx_dpo.data.conversation_tokens import end_of_turn, prompt_tokens
from mlx_dpo.models.generate import GenerateConfig, generate_answers
from mlx_dpo.models.load import load_model, load_tokenizer

pytestmark = pytest.mark.real


@pytest.mark.parametrize("bits", ["float32", "4-bit"])
def test_the_real_model_answers_a_question(bits, smollm2, smollm2_4bit):
    folder = smollm2 if bits == "float32" else smollm2_4bit
    tokenizer, (model, _) = load_tokenizer(folder), load_model(folder)
    prompt = prompt_tokens(tokenizer, [{"role": "user", "content": "What is the capital of France?"}])
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    (answer,) = generate_answers(model, tokenizer, [prompt], GenerateConfig(max_tokens=24, temperature=0.0))
    assert answer.text == "The capital of France is Paris."
    assert not answer.capped
