"""Keys, certificates, trust, revocation and enrolment."""
