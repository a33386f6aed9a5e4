-- First part of all scripts. KEYS[1] is the key prefix; its hash tag keeps all keys in one cluster slot.
-- Replies are lists whose first item is the outcome; jobs/store/base.py turns it into a value or an error.
-- A field that holds '' means "none".
local P = KEYS[1]
local clock = redis.call('TIME')
local NOW = tonumber(clock[1]) * 1000 + math.floor(tonumber(clock[2]) / 1000)

local function key(kind, id)
  if id then return P .. kind .. ':' .. id end
  return P .. kind
end
