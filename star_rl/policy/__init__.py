"""The student at work: tools, the loop over token ids, and the engines and trainers that drive it.

    tools       the two tools, answered from an evidence store
    threads     calls that may never return
    tokens      a tokenizer's ids and texts, as soon as they can be had
    rollout_stats  how a rollout may end, and what is counted in it
    loop        one rollout: generate, answer the calls, go on; over token ids, whatever the engine
    engines     engines behind the loop: vLLM in this process, plain transformers
    replicas    several vLLM engines behind one, each in a Ray actor
    sampler     many rollouts over tasks, resumable; for difficulty sampling and evaluation
    agent_loop  the same loop inside verl, as agent loop ``star_agent``

Only ``engines``, ``replicas`` and ``agent_loop`` load an engine.
"""
