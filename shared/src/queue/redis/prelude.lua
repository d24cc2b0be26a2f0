-- The beginning of every queue script. KEYS are the keys of the script's lane:
--
-- visible  sorted set of all messages, by the time at which they become visible
-- held     sorted set of received messages and of those released with a delay, by the same time.
--          A hidden message that is not in it was sent with a delay.
-- body     hash of message bodies
-- meta     hash of receive count, time of sending, and 1 if the latest receipt is valid, else 0
-- holder   hash of process name and receive count, for messages that a process with a heartbeat
--          received
local visible, held, body, meta, holder = unpack(KEYS)

local function forget(id)
  redis.call('ZREM', visible, id)
  redis.call('ZREM', held, id)
  redis.call('HDEL', body, id)
  redis.call('HDEL', meta, id)
  redis.call('HDEL', holder, id)
end

local function read_meta(id)
  local found = redis.call('HGET', meta, id)
  if not found then return nil end
  return string.match(found, '^(%d+) (%d+) ([01])$')
end

-- Whether a receipt is the latest of its message and is still valid.
local function holds(id, receives)
  local latest, _, is_held = read_meta(id)
  return latest == receives and is_held == '1'
end
