"""What the daemons decide, without a clock, a socket or a file: time comes in as an argument, actions go out.

Market data: book.py, books.py, bars.py, credit.py, clock_offset.py. Orders: order.py, oms.py, takeover.py,
risk.py, clients.py, gateway.py, answers.py, reasons.py. The venue: matching.py, accounts.py. What is kept:
position.py, audit_chain.py, replica.py, term.py; fixed.py is exact decimals. Others use any of these.
"""
