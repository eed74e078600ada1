"""Deployments: what is wanted is brought about, copy by copy.

book.py is what memory holds; wishes.py (people), reports.py (agents and nodes) and discovery.py
(services) are its sides; room.py is the task that owns it all and writes.
"""

from plumd.deployments.reports import Assigned, Fence, Report
from plumd.deployments.room import Deployments
from plumd.deployments.wishes import Planned

__all__ = ["Assigned", "Deployments", "Fence", "Planned", "Report"]
