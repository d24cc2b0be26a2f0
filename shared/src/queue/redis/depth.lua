-- Returns the number of all messages, of hidden ones, and of those in flight. ARGV: now.
local after = '(' .. ARGV[1]
local all = redis.call('ZCARD', visible)
local hidden = redis.call('ZCOUNT', visible, after, '+inf')
local in_flight_or_delayed = redis.call('ZCOUNT', held, after, '+inf')
return { all, hidden, in_flight_or_delayed }
