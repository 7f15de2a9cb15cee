"""Leads on to Experiments, part by part: links of before still name this page."""

import streamlit as st

from pruner.dashboard import frame
from pruner.dashboard.session import session

frame.stand_in_app()

session.experiments = "parts"
st.switch_page("pages/experiments.py")
