-- Receives messages, and moves those that exceeded the receive limit to the dead-letter lane.
--
-- KEYS: the keys of the lane, then visible, body, and meta of the dead-letter lane.
-- ARGV: now, maximum number of messages, hidden until, receive limit (0: none), maximum number of
-- messages to move, process name ('' for none).
--
-- Returns the time at which the first message becomes visible if none was received, then ID,
-- receive count, time of sending, and body of each message.
local now, max, until_, limit = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local received, count, moved = {}, 0, 0
while count < max and moved < tonumber(ARGV[5]) do
  local wanted = max - count
  local ids = redis.call('ZRANGE', visible, '-inf', now, 'BYSCORE', 'LIMIT', 0, wanted)
  for _, id in ipairs(ids) do
    local receives, sent_at = read_meta(id)
    local text = redis.call('HGET', body, id)
    if not receives or not text then
      -- Not a message of this queue.
      forget(id)
    elseif limit > 0 and tonumber(receives) >= limit then
      forget(id)
      redis.call('HSET', KEYS[7], id, text)
      redis.call('HSET', KEYS[8], id, '0 ' .. sent_at .. ' 0')
      redis.call('ZADD', KEYS[6], now, id)
      moved = moved + 1
    else
      receives = string.format('%.0f', tonumber(receives) + 1)
      redis.call('ZADD', visible, until_, id)
      redis.call('ZADD', held, until_, id)
      redis.call('HSET', meta, id, receives .. ' ' .. sent_at .. ' 1')
      if ARGV[6] ~= '' then
        redis.call('HSET', holder, id, ARGV[6] .. ' ' .. receives)
      else
        redis.call('HDEL', holder, id)
      end
      count = count + 1
      received[count] = { id, receives, sent_at, text }
    end
  end
  -- Without a visibility timeout, received messages stay visible. One call receives each once.
  if #ids < wanted or tonumber(until_) <= tonumber(now) then break end
end
if count > 0 then return { '', received } end
local first = redis.call('ZRANGE', visible, 0, 0, 'WITHSCORES')
return { first[2] or "", received }
