"""The text path as `transformers` defines it, so that `generate()` and everything built on it work on answers.

A context already read is the cache; the tokens before the answer are there only to be counted. Slow: it is a peer to
measure against and a bridge for other people's tools, not how `ask` decodes.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import (
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PretrainedConfig,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
)
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from hb.models.bagel import Bagel
from hb.models.kv_cache import KVCache


class AnswerModel(PreTrainedModel, GenerationMixin):
    """`answer_model.say(context, max_new_tokens=64, prompt_lookup_num_tokens=10)`: one row at a time, as assisted
    generation in `transformers` has it. Options are those of `generate()`. `passes` counts passes of the target."""

    config_class = PretrainedConfig
    main_input_name = "input_ids"

    def __init__(self, model: Bagel):
        config = PretrainedConfig(
            vocab_size=model.config.llm.vocab_size,
            num_hidden_layers=model.config.llm.num_hidden_layers,
            hidden_size=model.config.llm.hidden_size,
            is_encoder_decoder=False,
        )
        super().__init__(config)
        self.__dict__["bagel"] = model  # not a sub-module: it is borrowed
        self.anchor = nn.Parameter(torch.zeros(0, dtype=model.dtype), requires_grad=False)
        start, end = model.markers[:2]
        self.generation_config = GenerationConfig(bos_token_id=start, eos_token_id=end, pad_token_id=end)
        self._shift = torch.zeros(1, dtype=torch.long)
        self.passes = 0

    @property
    def device(self) -> torch.device:
        return self.bagel.device

    def say(self, context: KVCache, *, repetition_penalty: float = 1.0, **options) -> list[int]:
        """The answer behind a context of one row, without the end marker. repetition_penalty counts the answer's own
        tokens, as in `ask`: `generate()` by itself would count the context's."""
        if context.batch != 1:
            raise ValueError(f"one row at a time, please; this context has {context.batch}")
        start, end = self.bagel.markers[:2]
        cache = DynamicCache()
        for layer in range(context.kv.size(0)):
            cache.update(*context.layer(layer), layer)
        self._shift = context.position - context.length  # where a token stands, less its number in the cache
        ids = torch.full((1, context.length + 1), end, device=self.device)
        ids[0, -1] = start
        if repetition_penalty != 1:
            penalty = RepetitionPenaltyLogitsProcessor(float(repetition_penalty), ids.size(1))
            options["logits_processor"] = LogitsProcessorList([penalty, *options.get("logits_processor", ())])
        out = self.generate(input_ids=ids, past_key_values=cache, attention_mask=torch.ones_like(ids), **options)
        answer = out[0, context.length + 1 :].tolist()
        return answer[: answer.index(end)] if end in answer else answer

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        """The tokens that the cache does not hold yet."""
        return dict(
            input_ids=input_ids[:, past_key_values.get_seq_length() :], past_key_values=past_key_values, use_cache=True
        )

    def forward(self, input_ids, past_key_values=None, attention_mask=None, **kwargs) -> CausalLMOutputWithPast:
        self.passes += 1
        held = past_key_values.get_seq_length()
        kv = torch.stack([torch.stack((layer.keys, layer.values)) for layer in past_key_values.layers])
        hidden, grown = self.bagel.read_ids(KVCache(kv, self._shift + held), input_ids)
        for layer in range(len(kv)):
            past_key_values.update(*(part[:, :, held:] for part in grown.layer(layer)), layer)
        return CausalLMOutputWithPast(logits=self.bagel.logits(hidden), past_key_values=past_key_values)
