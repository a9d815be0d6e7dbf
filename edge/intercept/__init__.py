"""Interception: how traffic of programs and devices gets into circuits."""
