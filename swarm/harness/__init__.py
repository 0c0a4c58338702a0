"""The fixed half of a trial: data, evaluation, devices. Agents may not edit it.

It imports nothing of `swarm` outside this folder: a swarm copies it, with `prepare.py`, when it
begins, and its trials import the copy.
"""
