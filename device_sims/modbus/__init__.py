"""Modbus TCP: devices as tables of registers, and the listeners that serve them."""
