"""The student at work: the rollout loop over token ids, and the engines and trainers that run it.

    loop           one rollout: generate a turn, answer its calls, repeat, with any engine
    tokens         encode and decode, faster than transformers
    rollout_stats  how a rollout ends, and what is counted in it
    engines        vLLM and transformers behind the loop
    replicas       several vLLM engines behind one, each in a Ray actor
    sampler        many rollouts over tasks, resumable
    agent_loop     the loop inside verl, as agent loop ``star_agent``

Only ``engines``, ``replicas`` and ``agent_loop`` load an engine.
"""
