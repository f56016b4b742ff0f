"""Plays Azure and Port on loopback, so that every part of the product can run whole without an account.

The sandbox is an independent witness: it shares no code with the product, and the product never imports it.
"""
