-- ARGV: now. All, hidden, and of the hidden those in flight.
local after = '(' .. ARGV[1]
return { redis.call('ZCARD', visible), redis.call('ZCOUNT', visible, after, '+inf'), redis.call('ZCOUNT', held, after, '+inf') }
