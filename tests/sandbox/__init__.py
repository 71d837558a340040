"""Servers on real sockets that speak the providers' protocols, play scenarios and keep a journal of requests."""
