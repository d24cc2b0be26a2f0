-- Returns the first circuits in order. KEYS: circuits, circuits:latest. ARGV: how many.
local names = redis.call('ZRANGE', KEYS[2], 0, tonumber(ARGV[1]) - 1, 'REV')
if #names == 0 then return {} end
return redis.call('HMGET', KEYS[1], unpack(names))
