"""Plug-ins through which the upstream trainers and engines are reached."""
