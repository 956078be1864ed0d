"""The torch side: what is measured, where it is read, and how it leaves the device."""
