-- The beginning of both heartbeat scripts. KEYS:
--
-- processes  sorted set of process names, by the time of the latest heartbeat
-- takers     sorted set of dead processes, by the time until which one process recovers each
--
-- ARGV[1] is a process name. ARGV[2] is the time without a heartbeat after which a process is dead,
-- in milliseconds. The scripts use the time of the server, since the clocks of machines differ.
local processes, takers = unpack(KEYS)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function millis(number) return string.format('%.0f', number) end
